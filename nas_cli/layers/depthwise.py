"""Depthwise convolution, past the slow paths of oneDNN's backward pass.

As soon as there is dilation it takes 5 to 20 times as long as forward: the images are split into phases
that have none. In bf16 a stride is slow as well: such a convolution is computed in fp32. On other devices
than the CPU, and where no gradient is asked for, neither is done. What remains is `depthwise_functions.py`'s.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_cli.layers.depthwise_functions import Convolve, Geometry
from nas_cli.layers.every_second import every
from nas_cli.layers.phases import merge_phases, split_phases
from nas_cli.layers.precision import autocast_dtype, in_autocast_precision, outside_autocast


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, dilation: int) -> Tensor:
    """Convolve x (images, channels, height, width) with weight (channels, 1, kernel, kernel)."""
    return depthwise_convs(x, [weight], stride=stride, padding=padding, dilation=dilation)[0]


def depthwise_convs(
    x: Tensor, weights: Sequence[Tensor], *, stride: int, padding: int, dilation: int
) -> tuple[Tensor, ...]:
    """Convolve the same images with each of several weights of one shape."""
    kernel = weights[0].shape[2]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights))):
        return tuple(F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1]) for weight in weights)
    if x.device.type != "cpu" or padding != dilation * (kernel // 2) or dilation > 2:
        return _convolve(x, weights, stride, padding, dilation)
    if dilation == 2 and stride == 2:  # only pixels of even row and column are read
        return depthwise_convs(every(x, (0, 2, 2)), weights, stride=1, padding=padding // 2, dilation=1)
    if dilation == 2:
        height, width = x.shape[2:]
        phases = split_phases(F.pad(x, (0, width % 2, 0, height % 2)))
        convolved = depthwise_convs(phases, weights, stride=1, padding=padding // 2, dilation=1)
        return tuple(merge_phases(images)[:, :, :height, :width] for images in convolved)
    if stride == 2 and autocast_dtype(x) == torch.bfloat16:
        with outside_autocast(x):
            exact = _convolve(x.float(), [weight.float() for weight in weights], stride, padding, dilation)
            return tuple(images.bfloat16() for images in exact)
    return _convolve(x, weights, stride, padding, dilation)


def _convolve(
    x: Tensor, weights: Sequence[Tensor], stride: int, padding: int, dilation: int
) -> tuple[Tensor, ...]:
    geometry = Geometry(weights[0].shape[2], stride, padding, dilation)
    convolved: tuple[Tensor, ...] = Convolve.apply(geometry, *in_autocast_precision(x, *weights))
    return convolved
