"""Pooling as the fast form computes it."""

import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_conv2d


def pooled(layer: nn.Module, images: Tensor) -> Tensor:
    """What the layer makes of images (n, c, h, w).

    On a processor torch's average over 3 x 3 pixels takes four times as long, forward and backward, as a
    depthwise convolution that sums them.
    """
    averages = isinstance(layer, nn.AvgPool2d) and layer.kernel_size == 3 and not layer.count_include_pad
    if not averages or images.device.type != "cpu":
        result: Tensor = layer(images)
        return result
    _, channels, height, width = images.shape
    counts = F.avg_pool2d(images.new_ones(1, 1, height, width), 3, layer.stride, 1, divisor_override=1)
    sums = depthwise_conv2d(
        images, images.new_ones(channels, 1, 3, 3), stride=layer.stride, padding=1, dilation=1
    )
    return sums * counts.reciprocal()
