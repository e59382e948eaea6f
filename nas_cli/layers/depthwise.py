"""Depthwise convolution, past the slow paths of oneDNN's backward pass.

As soon as there is dilation it takes 5 to 20 times as long as forward: the images are split into phases
that have none. In bf16 a stride is slow as well: such a convolution is computed in fp32. On other devices
than the CPU, and where no gradient is asked for, neither is done. What remains is `depthwise_functions.py`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_cli.layers.depthwise_functions import Convolve, Geometry
from nas_cli.layers.every_second import every
from nas_cli.layers.phases import merge_phases, split_phases
from nas_cli.layers.precision import autocast_dtype, in_autocast_precision, outside_autocast


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, dilation: int) -> Tensor:
    """Convolve x (images, channels, height, width) with weight (channels, 1, kernel, kernel)."""
    kernel = weight.shape[2]
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])
    if x.device.type != "cpu" or padding != dilation * (kernel // 2) or dilation > 2:
        return _convolve(x, weight, Geometry(kernel, stride, padding, dilation))
    if dilation == 2 and stride == 2:  # only pixels of even row and column are read
        return depthwise_conv2d(every(x, (0, 2, 2)), weight, stride=1, padding=padding // 2, dilation=1)
    if dilation == 2:
        height, width = x.shape[2:]
        phases = split_phases(F.pad(x, (0, width % 2, 0, height % 2)))
        convolved = depthwise_conv2d(phases, weight, stride=1, padding=padding // 2, dilation=1)
        return merge_phases(convolved)[:, :, :height, :width]
    if stride == 2 and autocast_dtype(x) == torch.bfloat16:
        with outside_autocast(x):
            return _convolve(
                x.float(), weight.float(), Geometry(kernel, stride, padding, dilation)
            ).bfloat16()
    return _convolve(x, weight, Geometry(kernel, stride, padding, dilation))


def _convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    convolved: Tensor = Convolve.apply(geometry, *in_autocast_precision(x, weight))
    return convolved
