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
from nas_cli.layers.blocks import stack
from nas_cli.layers.moments import Moments, measure
from nas_cli.layers.pointwise import Context
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
    """
    handed_on, moments = measure(groups) if norms[0].training else (list(groups), None)
    return Folded(handed_on, *fold_points(points, norms, gates, moments, statistics))


def fold_points(
    points: Tensor,
    norms: Sequence[nn.BatchNorm2d],
    gates: Tensor | None,
    moments: Moments | None,
    statistics: Statistics,
) -> tuple[Tensor, Tensor]:
    """Matrices (r, c, o) and biases (r, o) of convolutions (r, o, c) of pixels with these moments.

    In training mode the statistics get the batch's. Evaluation mode has no moments: the running ones stand
    in for them.
    """
    eps = norms[0].eps
    if moments is not None:
        matrices, biases, mean, variance = _Fold.apply(
            _Batch(eps, moments.count), points, gates, moments.products, moments.sums
        )
        sizes = (len(norms), -1)
        statistics.add(norms, mean.view(sizes), variance.view(sizes))
        return matrices, biases
    mean, variance = (statistic.view(len(points), -1) for statistic in running_statistics(norms))
    scale = _gated((variance + eps).rsqrt(), gates)
    return (points * scale[:, :, None]).transpose(1, 2), -mean * scale


def _gated(scale: Tensor, gates: Tensor | None) -> Tensor:
    """(r, o) times the gates of the parts of the output."""
    return scale if gates is None else (scale.view(len(gates), -1) * gates[:, None]).view_as(scale)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the folded convolutions are made of: sums (e, c) and covariance (e, c, c) of `count` pixels, and

    points @ covariance (r, o, c), mean and variance (r, o) of the outputs, their scale without and with gate.
    """

    sums: Tensor
    covariance: Tensor
    through: Tensor
    centre: Tensor
    variance: Tensor
    scale: Tensor
    gated: Tensor
    count: int

    @staticmethod
    def of(moments: Moments, points: Tensor, gates: Tensor | None, eps: float) -> "_Terms":
        rows, count = len(points), moments.count
        products, sums = moments.products, moments.sums
        if is_synchronised():
            sums, products = ranks.average([sums, products])
        column, row = sums[:, :, None], sums[:, None, :]
        covariance = torch.baddbmm(products, column, row, beta=1 / count, alpha=-1 / count**2)
        through = torch.bmm(points, covariance.expand(rows, -1, -1))
        centre = _product(points, column.expand(rows, -1, -1), 1 / count).squeeze(2)
        variance = (through * points).sum(2).clamp_min(0)
        scale = (variance + eps).rsqrt()
        return _Terms(sums, covariance, through, centre, variance, scale, _gated(scale, gates), count)

    def folded(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices (r, c, o) and biases (r, o)."""
        return (points * self.gated[:, :, None]).transpose(1, 2), -self.centre * self.gated


def _product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """factor * left @ right; what baddbmm is given to add to is not read where its beta is 0."""
    return torch.baddbmm(left[:, :1, :1], left, right, beta=0, alpha=factor)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is added to variances, and how many pixels there are."""

    eps: float
    count: int


class _FoldContext(Context):
    batch: _Batch
    terms: _Terms
    synchronised: bool


class _Fold(torch.autograd.Function):
    """Matrices, biases, and the outputs' mean and unbiased variance.

    Arguments: the batch, points, gates, the pixels' products (e, c, c) and sums (e, c).
    """

    @staticmethod
    def forward(
        ctx: _FoldContext,
        batch: _Batch,
        points: Tensor,
        gates: Tensor | None,
        *of_pixels: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.batch = batch
        products, sums = of_pixels
        ctx.terms = _Terms.of(Moments(products, sums, batch.count), points, gates, batch.eps)
        ctx.save_for_backward(points, gates, *of_pixels)  # type: ignore[arg-type]  # torch takes None
        ctx.set_materialize_grads(False)
        ctx.synchronised = is_synchronised()  # a backward pass may be in another thread
        seen = batch.count * (ranks.size() if ctx.synchronised else 1)
        variance = ctx.terms.variance
        unbiased = torch.add(variance, variance, alpha=1 / max(seen - 1, 1))
        ctx.mark_non_differentiable(ctx.terms.centre, unbiased)
        return *ctx.terms.folded(points), ctx.terms.centre, unbiased

    @staticmethod
    def backward(ctx: _FoldContext, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint hands each of them over a single time
        points, gates, products, _ = saved
        for_matrices, for_biases, _, _ = gradients
        if for_matrices is None or for_biases is None:
            return (None,) * 5
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(saved, ctx.batch, for_matrices, for_biases)
        if ctx.synchronised:
            for_matrices, for_biases = ranks.average([for_matrices, for_biases])
        for_points, for_gates, for_products, slope = _gradients(
            ctx.terms, points, gates, for_matrices.transpose(1, 2), for_biases
        )
        if len(for_products) > len(products):  # all convolutions share the pixels
            for_products, slope = for_products.sum(0, keepdim=True), slope.sum(0, keepdim=True)
        count, sums = ctx.terms.count, ctx.terms.sums[:, :, None]
        for_sums = slope.baddbmm_(for_products, sums, beta=-1 / count, alpha=-2 / count).squeeze(2)
        return None, for_points, for_gates, for_products, for_sums


def _gradients(
    terms: _Terms, points: Tensor, gates: Tensor | None, for_matrices: Tensor, for_biases: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Of points and gates, of the pixels' products, and of the mean (r, c, 1), without its minus."""
    for_gated = (for_matrices * points).sum(2).addcmul_(for_biases, terms.centre, value=-1)
    for_gates = None
    if gates is not None:
        for_gates = (for_gated * terms.scale).view(len(gates), -1).sum(1)
    twice_for_variance = (_gated(for_gated, gates) * terms.scale.pow(3))[:, :, None]
    for_centre = (for_biases * terms.gated)[:, :, None]
    sums = terms.sums.expand(len(points), -1)[:, None, :]
    for_points = for_matrices * terms.gated[:, :, None]
    for_points.addcmul_(for_centre, sums, value=-1 / terms.count)
    for_points.addcmul_(twice_for_variance, terms.through, value=-1)
    transposed = points.transpose(1, 2)
    for_products = _product(transposed, points * twice_for_variance, -1 / (2 * terms.count))
    return for_points, for_gates, for_products, torch.bmm(transposed, for_centre)


def _differentiable_gradients(
    saved: Sequence[Tensor], batch: _Batch, for_matrices: Tensor, for_biases: Tensor
) -> tuple[Tensor | None, ...]:
    """Of points, gates, products and sums, by torch."""
    inputs = [tensor for tensor in saved if tensor is not None and tensor.requires_grad]
    points, gates, products, sums = saved
    folded = _Terms.of(Moments(products, sums, batch.count), points, gates, batch.eps).folded(points)
    found = iter(torch.autograd.grad(folded, inputs, (for_matrices, for_biases), create_graph=True))
    return tuple(next(found) if tensor is not None and tensor.requires_grad else None for tensor in saved)
