"""Batch normalisation after a 1x1 convolution, folded into the convolution's matrix.

The mean and variance of P d over all pixels follow from the mean and the covariance of d, so the
convolution's output is never normalised: it is computed once, normalised already, from a matrix that
has the scale in it. The pixels are read once less, and neither the convolution's output nor the
normalised one is kept for the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli import ranks
from nas_cli.layers.blocks import inner_products_and_sums, stack
from nas_cli.layers.pointwise import Context, images_of, pixels
from nas_cli.layers.products import add_product, product
from nas_cli.layers.statistics import Statistics, running_statistics
from nas_cli.layers.synchronised import is_synchronised


@dataclass(frozen=True, slots=True)
class Folded:
    """Convolution r and its normalisation are batches[r] @ matrices[r] + biases[r]; (r, c, o) and (r, o)."""

    batches: list[Tensor]
    matrices: Tensor
    biases: Tensor


def fold(
    images: Sequence[Tensor],
    kernels: Sequence[Tensor],
    norms: Sequence[nn.BatchNorm2d],
    gates: Tensor | None,
    statistics: Statistics,
) -> Folded:
    """Fold r convolutions (o, c), their normalisations without learned scale, and their gates (r).

    `images` has one batch for each convolution, or one that all share. A convolution may be several that
    lie side by side, with as many normalisations and gates for each of its parts of the output.
    """
    folded = fold_groups(images, stack(kernels).flatten(2), norms, gates, statistics)
    return Folded(folded.batches * (len(kernels) // len(images)), folded.matrices, folded.biases)


def fold_groups(
    groups: Sequence[Tensor],
    points: Tensor,
    norms: Sequence[nn.BatchNorm2d],
    gates: Tensor | None,
    statistics: Statistics,
) -> Folded:
    """The same for the convolutions `points` (r, o, c) of g groups; r is g times e.

    A group is blocks (e, pixels, c), or images (n, c, h, w), which are one block. The batches are the groups.
    In training mode the statistics get the batch's, in evaluation mode the running ones stand in for them.
    """
    eps = norms[0].eps
    if norms[0].training:
        *groups, matrices, biases, mean, variance = _Fold.apply(eps, points, gates, *groups)
        sizes = (len(norms), -1)
        statistics.add(norms, mean.view(sizes), variance.view(sizes))
        return Folded(list(groups), matrices, biases)
    mean, variance = (statistic.view(len(points), -1) for statistic in running_statistics(norms))
    scale = _gated((variance + eps).rsqrt(), gates)
    return Folded(list(groups), (points * scale[:, :, None]).transpose(1, 2), -mean * scale)


def _gated(scale: Tensor, gates: Tensor | None) -> Tensor:
    """(r, o) times the gates of the parts of the output."""
    return scale if gates is None else (scale.view(len(gates), -1) * gates[:, None]).view_as(scale)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the folded convolutions are made of: mean (e, c) and covariance (e, c, c) of the pixels, and

    points @ covariance (r, o, c), mean and variance (r, o) of the outputs, their scale without and with gate.
    """

    mean: Tensor
    covariance: Tensor
    through: Tensor
    centre: Tensor
    variance: Tensor
    scale: Tensor
    gated: Tensor

    @staticmethod
    def of(groups: Sequence[Tensor], points: Tensor, gates: Tensor | None, eps: float) -> "_Terms":
        pixels_of = [_blocks(group) for group in groups]
        count, rows = pixels_of[0].shape[1], len(points)
        found = [inner_products_and_sums(blocks, blocks) for blocks in pixels_of]
        grams = torch.cat([gram for gram, _ in found])
        mean = torch.cat([sums for _, sums in found]) / count
        if is_synchronised():
            mean, grams = ranks.average([mean, grams])
        covariance = torch.baddbmm(grams, mean[:, :, None], mean[:, None, :], beta=1 / count, alpha=-1)
        through = torch.bmm(points, covariance.expand(rows, -1, -1))
        centre = torch.bmm(points, mean.expand(rows, -1)[:, :, None]).squeeze(2)
        variance = (through * points).sum(2).clamp_min(0)
        scale = (variance + eps).rsqrt()
        return _Terms(mean, covariance, through, centre, variance, scale, _gated(scale, gates))

    def folded(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices (r, c, o) and biases (r, o)."""
        return (points * self.gated[:, :, None]).transpose(1, 2), -self.centre * self.gated


class _FoldContext(Context):
    eps: float
    terms: _Terms
    synchronised: bool


class _Fold(torch.autograd.Function):
    """Hand the groups on, with matrices, biases, and the outputs' mean and unbiased variance.

    Handing them on lets one backward pass add the gradients of both uses of the pixels.
    """

    @staticmethod
    def forward(
        ctx: _FoldContext, eps: float, points: Tensor, gates: Tensor | None, *groups: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.eps, ctx.terms = eps, _Terms.of(groups, points, gates, eps)
        ctx.save_for_backward(points, gates, *groups)  # type: ignore[arg-type]  # torch takes None
        ctx.set_materialize_grads(False)
        ctx.synchronised = is_synchronised()  # a backward pass may be in another thread
        count = _blocks(groups[0]).shape[1] * (ranks.size() if ctx.synchronised else 1)
        unbiased = ctx.terms.variance * (count / max(count - 1, 1))
        ctx.mark_non_differentiable(ctx.terms.centre, unbiased)
        return (*groups, *ctx.terms.folded(points), ctx.terms.centre, unbiased)

    @staticmethod
    def backward(ctx: _FoldContext, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint hands each of them over a single time
        points, gates, *groups = saved
        *handed_on, for_matrices, for_biases, _, _ = gradients
        if for_matrices is None or for_biases is None:
            return None, None, None, *handed_on
        if torch.is_grad_enabled():
            found = _differentiable_gradients(saved, ctx.eps, for_matrices, for_biases)
            through = [_sum(pair) for pair in zip(handed_on, found[2:], strict=True)]
            return None, found[0], found[1], *through
        if ctx.synchronised:
            for_matrices, for_biases = ranks.average([for_matrices, for_biases])
        for_points, for_gates, curvature, slope = _gradients(
            ctx.terms, points, gates, for_matrices.transpose(1, 2), for_biases
        )
        edges, count, _ = _blocks(groups[0]).shape
        if len(curvature) > len(groups) * edges:  # all convolutions share the pixels
            curvature, slope = curvature.sum(0, keepdim=True), slope.sum(0, keepdim=True)
        curvature, slope = curvature / -count, slope / -count
        constant = torch.baddbmm(slope, curvature, ctx.terms.mean[:, :, None], alpha=-1).squeeze(2)
        parts = zip(
            groups,
            handed_on,
            curvature.split(edges),
            constant.split(edges),
            ctx.needs_input_grad[3:],
            strict=True,
        )
        for_groups = [_add_to(*part[:4]) if part[4] else None for part in parts]
        return None, for_points, for_gates, *for_groups


def _gradients(
    terms: _Terms, points: Tensor, gates: Tensor | None, for_matrices: Tensor, for_biases: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Of points and gates, of the covariance and its transpose together, and of the mean (r, c, 1).

    The last two without their minus.
    """
    for_gated = (for_matrices * points).sum(2).addcmul_(for_biases, terms.centre, value=-1)
    for_gates = None
    if gates is not None:
        for_gates = (for_gated * terms.scale).view(len(gates), -1).sum(1)
    twice_for_variance = (_gated(for_gated, gates) * terms.scale.pow(3))[:, :, None]
    for_centre = (for_biases * terms.gated)[:, :, None]
    mean = terms.mean.expand(len(points), -1)[:, None, :]
    for_points = torch.baddbmm(for_matrices * terms.gated[:, :, None], for_centre, mean, alpha=-1)
    for_points.addcmul_(twice_for_variance, terms.through, value=-1)
    transposed = points.transpose(1, 2)
    curvature = torch.bmm(transposed, points * twice_for_variance)
    return for_points, for_gates, curvature, torch.bmm(transposed, for_centre)


def _differentiable_gradients(
    saved: Sequence[Tensor], eps: float, for_matrices: Tensor, for_biases: Tensor
) -> tuple[Tensor | None, ...]:
    """Of points, gates and groups, by torch."""
    inputs = [tensor for tensor in saved if tensor is not None and tensor.requires_grad]
    points, gates, *groups = saved
    folded = _Terms.of(groups, points, gates, eps).folded(points)
    found = iter(torch.autograd.grad(folded, inputs, (for_matrices, for_biases), create_graph=True))
    return tuple(next(found) if tensor is not None and tensor.requires_grad else None for tensor in saved)


def _sum(pair: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    present = [part for part in pair if part is not None]
    return sum(present[1:], present[0]) if present else None


def _blocks(group: Tensor) -> Tensor:
    return group if group.dim() == 3 else pixels(group).unsqueeze(0)


def _add_to(group: Tensor, gradient: Tensor | None, curvature: Tensor, constant: Tensor) -> Tensor:
    """group @ curvature + constant (e, c), added to the gradient in place."""
    blocks = _blocks(group)
    if gradient is None:
        result = product(blocks, curvature, constant)
    else:
        result = add_product(_blocks(gradient), blocks, curvature, constant)
    return result if group.dim() == 3 else images_of(result.squeeze(0), group)
