"""Pooling as the fast form computes it."""

import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_conv2d


def pooled(layer: nn.Module, images: Tensor) -> Tensor:
    """What a candidate's pooling makes of images (n, c, h, w).

    Padding is not counted. On a processor torch's average over 3 x 3 pixels takes four times as long, forward
    and backward, as a depthwise convolution that sums them.
    """
    if images.device.type != "cpu" or not (isinstance(layer, nn.AvgPool2d) and layer.kernel_size == 3):
        result: Tensor = layer(images)
        return result
    stride = layer.stride
    assert isinstance(stride, int)
    _, channels, height, width = images.shape
    counts = F.avg_pool2d(images.new_ones(1, 1, height, width), 3, stride, 1, divisor_override=1)
    ones = images.new_ones(channels, 1, 3, 3)
    return depthwise_conv2d(images, ones, stride=stride, padding=1, dilation=1) / counts
