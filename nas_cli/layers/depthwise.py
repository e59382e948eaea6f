"""Depthwise convolution, past the slow paths of oneDNN's backward pass.

It takes 5 to 20 times as long as forward as soon as there is dilation, and for the weight gradient
where the kernel, or the padding of the width, is wider than it has code for (3 and 1). Both cures are
exact. In bf16 a stride is slow as well: such a convolution is computed in fp32. On other devices than the
CPU the plain call stands.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_weight

# The columns of a wide kernel whose weight gradients are computed together: at most 3
COLUMNS = {5: (3, 2), 7: (3, 2, 2)}
# Below this width, columns are cheaper than pairs of pixels
NARROWEST_PAIRED = 8


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
    if stride == 2 and torch.is_grad_enabled() and _autocast_dtype(x) == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            exact = _convolve(x.float(), [weight.float() for weight in weights], stride, padding, dilation)
            return tuple(images.bfloat16() for images in exact)
    if is_slow(x, kernel) and stride == 1 and any(weight.requires_grad for weight in weights):
        arguments = map(_in_autocast_precision, (x, *weights))
        wide: tuple[Tensor, ...] = _WideDepthwise.apply(*arguments)
        return wide
    return _convolve(x, weights, stride, padding, dilation)


def is_slow(x: Tensor, kernel: int) -> bool:
    """A map so narrow that columns of the kernel meet none of its pixels is left to the plain call."""
    return kernel in COLUMNS and x.shape[3] >= kernel // 2 - 1


def _convolve(
    x: Tensor, weights: Sequence[Tensor], stride: int, padding: int, dilation: int
) -> tuple[Tensor, ...]:
    return tuple(F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1]) for weight in weights)


def _in_autocast_precision(tensor: Tensor) -> Tensor:
    """As autocast casts a convolution's arguments; it does not reach the backward pass of a Function."""
    return tensor.to(_autocast_dtype(tensor))


def _autocast_dtype(tensor: Tensor) -> torch.dtype:
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return tensor.dtype


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
    """Wide convolutions of the same images, whose weight gradients are computed as narrower ones.

    These read images that are padded beforehand, once for all convolutions.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(F.conv2d(x, weight, None, 1, weight.shape[2] // 2, 1, x.shape[1]) for weight in weights)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        for_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for gradient, weight in zip(gradients, weights, strict=True):
                part = input_gradient(gradient, x, weight)
                for_x = part if for_x is None else for_x.add_(part)
        if not any(ctx.needs_input_grad[1:]):
            return for_x, *(None for _ in weights)
        return for_x, *wide_weight_gradients(x, gradients, weights[0])


def wide_weight_gradients(x: Tensor, gradients: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Of convolutions of x with weights like this one, one for each gradient."""
    kernel = weight.shape[2]
    if kernel == 5 and x.shape[3] % 2 == 0 and x.shape[3] >= NARROWEST_PAIRED:
        return [_five_columns(x, gradient, weight) for gradient in gradients]
    widths = COLUMNS[kernel]
    parts = [(_pad(x, kernel, *part), part[1]) for part in zip(_starts(widths), widths, strict=True)]
    return [
        torch.cat([_weight_gradient(gradient, padded, kernel, width) for padded, width in parts], dim=3)
        for gradient in gradients
    ]


def _five_columns(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The middle three columns by themselves; the outer two are neighbours where pixels are paired."""
    middle = _three_columns(x, gradient, weight)
    outer = _three_columns(_paired(x), _paired(gradient), weight).unflatten(0, (2, -1)).sum(0)
    return torch.cat([outer[..., :1], middle, outer[..., 2:]], dim=3)


def _paired(images: Tensor) -> Tensor:
    """Two pixels side by side as one of twice the channels, which turns a step of two pixels into one."""
    n, c, h, w = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided((n, 2 * c, h, w // 2), (h * w * c, 1, w * c, 2 * c))


def _three_columns(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """Of the weight only the shape is read, and that is made to fit."""
    channels = x.shape[1]
    shaped = weight.as_strided((channels, 1, 5, 3), (0, 0, 0, 0))
    result: Tensor
    _, result, _ = torch.ops.aten.convolution_backward(
        gradient, x, shaped, None, (1, 1), (2, 1), (1, 1), False, (0, 0), channels, (False, True, False)
    )
    return result


def _starts(widths: Sequence[int]) -> list[int]:
    return list(accumulate(widths[:-1], initial=0))


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """torch.nn.grad.conv2d_input would lose the memory layout of x."""
    padding = (weight.shape[2] // 2,) * 2
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), padding, (1, 1), False, (0, 0), x.shape[1], (True, False, False)
    )
    return gradients[0]


def _pad(x: Tensor, kernel: int, start: int, width: int) -> Tensor:
    """The images as `width` columns of the kernel from `start` on meet them.

    Those of fewer rows than the kernel are padded in height too: oneDNN's own padding is slow there.
    """
    rows = kernel // 2 if x.shape[2] < kernel else 0
    left = kernel // 2 - start
    return F.pad(x, (left, width - 1 - left, rows, rows))


def _weight_gradient(gradient: Tensor, padded: Tensor, kernel: int, columns: int) -> Tensor:
    channels = padded.shape[1]
    padding = ((gradient.shape[2] + kernel - 1 - padded.shape[2]) // 2, 0)
    result: Tensor = conv2d_weight(padded, (channels, 1, kernel, columns), gradient, 1, padding, 1, channels)
    return result
