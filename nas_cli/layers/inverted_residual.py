"""MobileNetV2's inverted residual block (arXiv:1801.04381): wide inside, narrow outside."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.supernet import Gate

Activation = Literal["relu6", "hard_swish"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu6": partial(F.relu6, inplace=True),
    "hard_swish": F.hardswish,
}


@dataclass(frozen=True, slots=True)
class Block:
    """What an architecture has at a place: the depthwise kernel, and how many times as wide it is inside."""

    kernel: int
    expansion: int


@dataclass(frozen=True, slots=True)
class Place:
    """One block's place in the network: what any block there reads and gives."""

    in_channels: int
    out_channels: int
    stride: int
    activation: Activation

    @property
    def has_shortcut(self) -> bool:
        """Where the block keeps the shape, its input is added to its output."""
        return self.stride == 1 and self.in_channels == self.out_channels


class ConvNorm(nn.Module):
    """Convolution without bias, padded so that stride 1 keeps the size, and batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


class DepthwiseConvNorm(nn.Module):
    """The same, each channel by itself. With `plain` it is torch's own call, whatever it costs."""

    def __init__(self, channels: int, kernel: int, stride: int, *, plain: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.stride = stride
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.convolve(x, self.conv.weight))
        return normalised

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        padding = weight.shape[2] // 2
        if self.plain:
            return F.conv2d(x, weight, None, self.stride, padding, groups=x.shape[1])
        return depthwise_conv2d(x, weight, stride=self.stride, padding=padding, dilation=1)


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, depthwise convolution, 1x1 convolution back.

    The last convolution has no activation; an expansion of 1 has no first one.
    """

    def __init__(self, place: Place, block: Block, *, plain: bool = False) -> None:
        super().__init__()
        hidden = block.expansion * place.in_channels
        self.place = place
        self.expand = ConvNorm(place.in_channels, hidden) if block.expansion > 1 else None
        self.depthwise = DepthwiseConvNorm(hidden, block.kernel, place.stride, plain=plain)
        self.project = ConvNorm(hidden, place.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.place.activation]
        wide = x if self.expand is None else activation(self.expand(x))
        narrow: Tensor = self.project(activation(self.depthwise(wide)))
        return x + narrow if self.place.has_shortcut else narrow


class MixedInvertedResidual(nn.Module):
    """Candidate blocks of one place, each with weights of its own; with `skip`, the identity is the last."""

    def __init__(self, place: Place, blocks: Sequence[Block], *, skip: bool, plain: bool = False) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.candidates = nn.ModuleList(InvertedResidual(place, block, plain=plain) for block in blocks)
        if skip:
            self.candidates.append(nn.Identity())

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        (active,), weights = gate.active, gate.weights[0].unbind()
        assert active, "every layer of a chain runs a candidate"
        mixed: Tensor = self.candidates[active[0]](x) * weights[active[0]]
        for index in active[1:]:
            mixed = torch.addcmul(mixed, self.candidates[index](x), weights[index])
        return mixed

    def cut_out(self, block: Block) -> InvertedResidual:
        """The candidate by itself, with copies of its weights and statistics."""
        return deepcopy(cast(InvertedResidual, self.candidates[self.blocks.index(block)]))
