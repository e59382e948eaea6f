"""Every second pixel, with a gradient that keeps the memory layout of the images.

torch's own gradient of a slice is zeros in contiguous memory, one for each dimension that is sliced: where
images are channels_last, whatever it is added to is read across the grain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Strides = tuple[int, int, int]
"""The first row and column, and how many rows and columns are gone on by."""

DIAGONAL: Strides = (1, 2, 2)


def every(x: Tensor, strides: Strides) -> Tensor:
    """Pixels of x (images, channels, height, width), from row and column `strides[0]` on."""
    if strides == (0, 1, 1):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _chosen(x, strides)
    chosen: Tensor = _Every.apply(strides, x)
    return chosen


def _chosen(x: Tensor, strides: Strides) -> Tensor:
    start, rows, columns = strides
    return x[:, :, start::rows, start::columns]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where pixels are taken from."""

    strides: Strides
    size: torch.Size
    layout: torch.memory_format

    @staticmethod
    def in_images(x: Tensor, strides: Strides) -> "_Place":
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return _Place(strides, x.shape, torch.channels_last if channels_last else torch.contiguous_format)


class _Context(FunctionCtx):
    place: _Place


class _Every(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, strides: Strides, x: Tensor) -> Tensor:
        ctx.place = _Place.in_images(x, strides)
        return _chosen(x, strides).clone(memory_format=ctx.place.layout)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _Spread.apply(ctx.place, gradient)


class _Spread(torch.autograd.Function):
    """Pixels at their places among zeros."""

    @staticmethod
    def forward(ctx: _Context, place: _Place, pixels: Tensor) -> Tensor:
        ctx.place = place
        spread = torch.empty(
            place.size, dtype=pixels.dtype, device=pixels.device, memory_format=place.layout
        ).zero_()
        _chosen(spread, place.strides).copy_(pixels)
        return spread

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[None, Tensor]:
        return None, every(gradient, ctx.place.strides)
