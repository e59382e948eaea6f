"""Depthwise convolution, past the slow paths of oneDNN's backward pass.

It takes 5 to 20 times as long as forward as soon as there is dilation, and for the weight gradient
where the kernel, or the padding of the width, is wider than it has code for (3 and 1). Both cures are
exact. On other devices than the CPU the plain call stands.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_weight


class Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, dilation: int) -> Tensor:
    """Convolve x (images, channels, height, width) with weight (channels, 1, kernel, kernel)."""
    return depthwise_convs(x, [weight], stride=stride, padding=padding, dilation=dilation)[0]


def depthwise_convs(
    x: Tensor, weights: Sequence[Tensor], *, stride: int, padding: int, dilation: int
) -> tuple[Tensor, ...]:
    """Convolve the same images with each of several weights of one shape."""
    kernel = weights[0].shape[2]
    if x.device.type != "cpu" or padding != dilation * (kernel // 2) or dilation > 2:
        return _convolve(x, weights, stride, padding, dilation)
    if dilation == 2 and stride == 2:  # only pixels of even row and column are read
        return depthwise_convs(x[:, :, ::2, ::2], weights, stride=1, padding=padding // 2, dilation=1)
    if dilation == 2:
        height, width = x.shape[2:]
        phases = split_phases(F.pad(x, (0, width % 2, 0, height % 2)))
        convolved = depthwise_convs(phases, weights, stride=1, padding=padding // 2, dilation=1)
        return tuple(merge_phases(images)[:, :, :height, :width] for images in convolved)
    if kernel == 5 and stride == 1 and any(weight.requires_grad for weight in weights):
        arguments = map(_in_autocast_precision, (x, *weights))
        wide: tuple[Tensor, ...] = _WideDepthwise.apply(*arguments)
        return wide
    return _convolve(x, weights, stride, padding, dilation)


def _convolve(
    x: Tensor, weights: Sequence[Tensor], stride: int, padding: int, dilation: int
) -> tuple[Tensor, ...]:
    return tuple(F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1]) for weight in weights)


def _in_autocast_precision(tensor: Tensor) -> Tensor:
    """As autocast casts a convolution's arguments; it does not reach the backward pass of a Function."""
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
        return tensor.to(torch.get_autocast_dtype("cpu"))
    return tensor


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
    """5x5 convolutions of the same images, whose weight gradients are computed as two narrower ones.

    Both read images that are padded beforehand, once for all convolutions.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(F.conv2d(x, weight, None, 1, 2, 1, x.shape[1]) for weight in weights)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        for_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for gradient, weight in zip(gradients, weights, strict=True):
                part = _input_gradient(gradient, x, weight)
                for_x = part if for_x is None else for_x.add_(part)
        if not any(ctx.needs_input_grad[1:]):
            return for_x, *(None for _ in weights)
        left, right = _pad(x, 2, 0), _pad(x, -1, 2)  # as columns 0 to 2 and 3 to 4 of the kernel meet them
        return for_x, *(
            torch.cat([_weight_gradient(gradient, left, 3), _weight_gradient(gradient, right, 2)], dim=3)
            for gradient in gradients
        )


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """torch.nn.grad.conv2d_input would lose the memory layout of x."""
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), (2, 2), (1, 1), False, (0, 0), x.shape[1], (True, False, False)
    )
    return gradients[0]


def _pad(x: Tensor, left: int, right: int) -> Tensor:
    """Images of fewer rows than the kernel are padded in height too: oneDNN's own padding is slow there."""
    rows = 2 if x.shape[2] < 5 else 0
    return F.pad(x, (left, right, rows, rows))


def _weight_gradient(gradient: Tensor, padded: Tensor, columns: int) -> Tensor:
    channels = padded.shape[1]
    padding = ((gradient.shape[2] + 4 - padded.shape[2]) // 2, 0)
    result: Tensor = conv2d_weight(padded, (channels, 1, 5, columns), gradient, 1, padding, 1, channels)
    return result
