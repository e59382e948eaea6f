"""Batch normalisation after a 1x1 convolution, folded into the convolution's matrix.

The mean and variance of P d over all pixels follow from the mean and the Gram matrix of d, so the
convolution's output is never normalised: it is computed once, normalised already, from a matrix that
has the scale in it. The pixels are read once less, and neither the convolution's output nor the
normalised one is kept for the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.layers.blocks import BlockMoments
from nas_cli.layers.pointwise import Moments


@dataclass(frozen=True, slots=True)
class Folded:
    """Convolution r and its normalisation are images[r] @ matrices[r] + biases[r]; (r, c, o) and (r, o)."""

    images: list[Tensor]
    matrices: Tensor
    biases: Tensor


def fold(
    images: Sequence[Tensor], kernels: Sequence[Tensor], norms: Sequence[nn.BatchNorm2d], gates: Tensor | None
) -> Folded:
    """Fold r convolutions (o, c), their normalisations without learned scale, and their gates (r).

    `images` has one batch for each convolution, or one that all share. A convolution may be several that
    lie side by side, with as many normalisations and gates for each of its parts of the output. Running
    statistics are updated in training mode, and stand in for the batch's in evaluation mode.
    """
    points = torch.stack([kernel.flatten(1) for kernel in kernels])
    if norms[0].training:
        *images, sums, grams = Moments.apply(*images)
        count = images[0].shape[0] * images[0].shape[2] * images[0].shape[3]
        mean, variance = _statistics(points, sums, grams, count)
        _track(norms, mean, variance, count)
    else:
        mean, variance = (statistic.view(len(kernels), -1) for statistic in running_statistics(norms))
    repeated = list(images) * (len(kernels) // len(images))
    return Folded(repeated, *_folded(points, mean, variance, norms, gates))


def fold_blocks(
    groups: Sequence[Tensor], points: Tensor, norms: Sequence[nn.BatchNorm2d], gates: Tensor | None
) -> Folded:
    """Fold the convolutions `points` (r, o, c) of g groups of blocks (e, pixels, c); r is g times e.

    The matrices are (g, e, c, o), the biases (g, e, o).
    """
    if norms[0].training:
        *groups, sums, grams = BlockMoments.apply(*groups)
        count = groups[0].shape[1]
        mean, variance = _statistics(points, sums.flatten(0, 1), grams.flatten(0, 1), count)
        _track(norms, mean, variance, count)
    else:
        mean, variance = running_statistics(norms)
    matrices, biases = _folded(points, mean, variance, norms, gates)
    sizes = (len(groups), -1)
    return Folded(list(groups), matrices.unflatten(0, sizes), biases.unflatten(0, sizes))


def _folded(
    points: Tensor, mean: Tensor, variance: Tensor, norms: Sequence[nn.BatchNorm2d], gates: Tensor | None
) -> tuple[Tensor, Tensor]:
    scale = (variance + norms[0].eps).rsqrt()
    if gates is not None:
        scale = (scale.view(len(norms), -1) * gates[:, None]).view_as(scale)
    return (points * scale[:, :, None]).transpose(1, 2), -mean * scale


def _statistics(points: Tensor, sums: Tensor, grams: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance (r, o) of the convolutions' outputs."""
    mean = sums / count
    covariance = grams / count - mean[:, :, None] * mean[:, None, :]
    variance = ((points @ covariance) * points).sum(2).clamp_min(0)
    return (points @ mean[:, :, None]).squeeze(2), variance


def running_statistics(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """Means and variances (r, o) of evaluation mode."""
    return torch.stack(_buffers(norms, "running_mean")), torch.stack(_buffers(norms, "running_var"))


def _buffers(norms: Sequence[nn.BatchNorm2d], name: str) -> list[Tensor]:
    return [norm.get_buffer(name) for norm in norms]


def _track(norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, count: int) -> None:
    """Running variances are unbiased, as torch has them."""
    unbiased = variance.detach() * (count / max(count - 1, 1))
    means, variances = (statistic.view(len(norms), -1) for statistic in (mean.detach(), unbiased))
    track(norms, list(means.unbind()), list(variances.unbind()))


@torch.no_grad()
def track(norms: Sequence[nn.BatchNorm2d], means: list[Tensor], variances: list[Tensor]) -> None:
    """Move the running statistics of each normalisation towards the batch's."""
    momentum = norms[0].momentum
    assert momentum is not None
    torch._foreach_lerp_(_buffers(norms, "running_mean"), means, momentum)
    torch._foreach_lerp_(_buffers(norms, "running_var"), variances, momentum)
    torch._foreach_add_(_buffers(norms, "num_batches_tracked"), 1)
