"""Layers whose first channels can be used alone: all widths of a network share the widest one's weights.

And the ten operations, made of such layers or of plain ones.

Slimmable networks (arXiv:1812.08928) keep a batch normalisation for each width. Here one is shared, so the
statistics of a width have to be measured again before it is judged (arXiv:1903.05134).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.layers.head import Classifier
from nas_cli.layers.operations import Zero

Operation = Literal[
    "conv3x3",
    "conv5x5",
    "conv7x7",
    "depthwise_conv3x3",
    "max_pool3x3",
    "avg_pool3x3",
    "skip_connect",
    "sep_conv3x3",
    "sep_conv5x5",
    "none",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class PaddedConv(nn.Conv2d):
    """A convolution without bias, padded so that stride 1 keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


class SlicedConv(PaddedConv):
    """Reads as many channels as the images have, and gives `out_channels`, or as many as it reads."""

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        weight = self.weight[: out_channels or x.shape[1], : x.shape[1]]
        return F.conv2d(x, weight, None, self.stride, cast(tuple[int, int], self.padding))


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the size. With `plain` it is torch's own call, whatever it costs."""

    def __init__(self, channels: int, kernel: int, *, plain: bool = False) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        padding = weight.shape[2] // 2
        if self.plain:
            return F.conv2d(x, weight, None, padding=padding, groups=x.shape[1])
        return depthwise_conv2d(x, weight, stride=1, padding=padding, dilation=1)


class SlicedDepthwiseConv(DepthwiseConv):
    """Convolves as many channels as the images have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight[: x.shape[1]])


class SlicedBatchNorm(nn.BatchNorm2d):
    """Normalises, and tracks the statistics of, as many channels as the images have."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, (
            "channels are not tracked equally often: no plain average over batches"
        )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        used = slice(x.shape[1])
        mean, variance = self.running_mean[used], self.running_var[used]
        scale, shift = self.weight[used], self.bias[used]
        return F.batch_norm(x, mean, variance, scale, shift, self.training, self.momentum, self.eps)


class SlicedClassifier(Classifier):
    """Reads as many channels as the maps have."""

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.linear.weight[:, : maps.shape[1]]
        return F.linear(maps.mean((2, 3)), weight, self.linear.bias)


class SlicedSequence(nn.Sequential):
    """Layers in a row whose full convolutions all give `out_channels`."""

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        for layer in self:
            x = layer(x, out_channels) if isinstance(layer, SlicedConv) else layer(x)
        return x


@dataclass(frozen=True, slots=True)
class Kit:
    """The layers that operations are made of: plain ones, or sliced ones of the same names and shapes."""

    conv: type[PaddedConv]
    depthwise: Callable[[int, int], DepthwiseConv]
    norm: Callable[[int], nn.BatchNorm2d]
    sequence: type[nn.Sequential]


FIXED = Kit(PaddedConv, DepthwiseConv, nn.BatchNorm2d, nn.Sequential)
SLICED = Kit(SlicedConv, SlicedDepthwiseConv, SlicedBatchNorm, SlicedSequence)
PLAIN_SLICED = replace(SLICED, depthwise=partial(SlicedDepthwiseConv, plain=True))


def make_operation(name: str, channels: int, kit: Kit) -> nn.Module:
    """One of `OPERATIONS`, channels to channels of the same size, by its definition."""
    if name in WITHOUT_WEIGHTS:
        return WITHOUT_WEIGHTS[name]()
    if name in FULL_KERNELS:
        convs: list[nn.Module] = [kit.conv(channels, channels, FULL_KERNELS[name])]
    elif name in DEPTHWISE_KERNELS:
        convs = [kit.depthwise(channels, DEPTHWISE_KERNELS[name])]
    else:
        convs = [kit.depthwise(channels, SEPARABLE_KERNELS[name]), kit.conv(channels, channels, 1)]
    return nn.Sequential(*convs, kit.norm(channels), nn.ReLU())


FULL_KERNELS = {"conv3x3": 3, "conv5x5": 5, "conv7x7": 7}
DEPTHWISE_KERNELS = {"depthwise_conv3x3": 3}
SEPARABLE_KERNELS = {"sep_conv3x3": 3, "sep_conv5x5": 5}
WITHOUT_WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "max_pool3x3": lambda: nn.MaxPool2d(3, 1, padding=1),
    "avg_pool3x3": lambda: nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
    "skip_connect": nn.Identity,
    "none": lambda: Zero(1),
}


def take_slices(narrow: nn.Module, wide: nn.Module) -> None:
    """Give a module of any device copies of the first channels of another's weights and statistics.

    Both have tensors of the same names, each with as many dimensions.
    """
    source = wide.state_dict()
    slices = {
        name: source[name][tuple(slice(length) for length in tensor.shape)].clone()
        for name, tensor in narrow.state_dict().items()
    }
    narrow.load_state_dict(slices, assign=True)
