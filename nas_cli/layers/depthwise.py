"""Depthwise convolution, which oneDNN's backward pass leaves on a slow path, 5 to 20 times slower than forward,
as soon as it is dilated, or for the weight gradient of a kernel wider than three.

Both cures are exact. On other devices than the CPU the plain call stands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_input, conv2d_weight


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, dilation: int) -> Tensor:
    """Convolve x (images, channels, height, width) with weight (channels, 1, kernel, kernel)."""
    kernel = weight.shape[2]
    if x.device.type != "cpu" or padding != dilation * (kernel // 2):
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])
    if dilation == 2 and stride == 2:  # only pixels of even row and column are read
        return depthwise_conv2d(x[:, :, ::2, ::2], weight, stride=1, padding=padding // 2, dilation=1)
    if dilation == 2 and stride == 1:
        height, width = x.shape[2:]
        phases = split_phases(F.pad(x, (0, width % 2, 0, height % 2)))
        convolved = depthwise_conv2d(phases, weight, stride=1, padding=padding // 2, dilation=1)
        return merge_phases(convolved)[:, :, :height, :width]
    if kernel == 5 and stride == 1 and dilation == 1:
        wide: Tensor = _WideDepthwise.apply(x, weight)
        return wide
    return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])


def split_phases(x: Tensor) -> Tensor:
    """(n, c, h, w) of even sizes to (4n, c, h/2, w/2): the pixels of even row and column, then the others.

    A convolution of dilation 2 on x is one of dilation 1 on these.
    """
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
    return pixels.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def merge_phases(phases: Tensor) -> Tensor:
    """The inverse of `split_phases`."""
    n, c, h, w = phases.shape
    pixels = phases.permute(0, 2, 3, 1).reshape(2, 2, n // 4, h, w, c)
    return pixels.permute(2, 3, 0, 4, 1, 5).reshape(n // 4, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


class _WideDepthwise(torch.autograd.Function):
    """A 5x5 depthwise convolution whose weight gradient is computed as two narrower ones."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, 1, 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx: "_Saved", gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_x = conv2d_input(x.shape, weight, gradient, 1, 2, 1, x.shape[1])
        if ctx.needs_input_grad[1]:
            for_weight = _wide_weight_gradient(x, gradient)
        return for_x, for_weight


class _Saved(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


def _wide_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Columns 0 to 2 and columns 3 to 4 of the kernel; the gradient is shifted to where they stand."""
    channels = x.shape[1]
    left = conv2d_weight(x, (channels, 1, 5, 3), F.pad(gradient, (0, 2)), 1, (2, 2), 1, channels)
    right = conv2d_weight(x, (channels, 1, 5, 2), F.pad(gradient, (2, -1)), 1, (2, 1), 1, channels)
    return torch.cat([left, right], dim=3)
