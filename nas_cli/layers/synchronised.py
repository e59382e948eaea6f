"""Batch statistics of all ranks together, as if one process had the whole batch.

Every rank has as many images as any other, so the statistics are the means over the ranks. The gradient of
a mean over ranks is the mean of the gradients: a rank goes on with the sum of all losses as its own, and the
average of the weights' gradients at the end is that of the whole batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli import ranks
from nas_cli.stand_ins import StandIns

_active = ContextVar("synchronised", default=False)


def is_synchronised() -> bool:
    """For layers that compute batch statistics without torch's function."""
    return _active.get()


@contextmanager
def synchronised(wanted: bool) -> Iterator[None]:
    """Inside, in training mode, batch normalisations normalise with the statistics of all ranks."""
    if not wanted:
        yield
        return
    before = _active.set(True)
    try:
        with StandIns({F.batch_norm: batch_norm}):
            yield
    finally:
        _active.reset(before)


def batch_norm(  # noqa: PLR0917  torch's own signature
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, whose statistics in training mode are those of all ranks' images."""
    if not training:
        return F.batch_norm(images, running_mean, running_var, weight, bias, False, momentum, eps)
    values = images.to(torch.promote_types(images.dtype, torch.float32))
    axes = [axis for axis in range(images.dim()) if axis != 1]
    shape = [1 if axis in axes else -1 for axis in range(images.dim())]
    mean = _averaged(values.mean(axes))
    centred = values - mean.view(shape)
    variance = _averaged(centred.square().mean(axes))
    if running_mean is not None and running_var is not None:
        count = ranks.size() * images.numel() / images.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    normalised = centred * scale.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(images.dtype)


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        return ranks.average([tensor])[0]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return ranks.average([gradient])[0]


def _averaged(tensor: Tensor) -> Tensor:
    averaged: Tensor = _Average.apply(tensor)
    return averaged
