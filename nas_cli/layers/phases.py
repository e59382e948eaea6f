"""Images as four smaller ones: the pixels of even row and column, then the others.

A convolution of dilation 2 on the images is one of dilation 1 on these.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def split_phases(x: Tensor) -> Tensor:
    """(n, c, h, w) of even sizes to (4n, c, h/2, w/2)."""
    split: Tensor = _Split.apply(x)
    return split


def merge_phases(phases: Tensor) -> Tensor:
    """The inverse of `split_phases`."""
    merged: Tensor = _Merge.apply(phases)
    return merged


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
        return pixels.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return merge_phases(gradient)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, phases: Tensor) -> Tensor:
        n, c, h, w = phases.shape
        pixels = phases.permute(0, 2, 3, 1).reshape(2, 2, n // 4, h, w, c)
        return pixels.permute(2, 3, 0, 4, 1, 5).reshape(n // 4, 2 * h, 2 * w, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return split_phases(gradient)
