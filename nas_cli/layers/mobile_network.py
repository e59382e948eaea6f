"""The network around inverted residual blocks, as MobileNetV2 has it (arXiv:1801.04381, table 2)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.data import ImageInfo
from nas_cli.layers.head import Classifier
from nas_cli.layers.inverted_residual import ACTIVATIONS, Activation, Block, ConvNorm, InvertedResidual, Place

Step = Callable[[Tensor], Tensor]
"""What a block computes."""


@dataclass(frozen=True, slots=True)
class Around:
    """What is around the blocks: channels, the size that images are resized to, the activation."""

    stem_channels: int
    stem_stride: int
    first_channels: int
    last_channels: int
    head_channels: int
    resolution: int
    activation: Activation


class MobileSkeleton(nn.Module):
    """A 3x3 convolution, a block without expansion, then the steps, a 1x1 convolution and the classifier."""

    def __init__(self, info: ImageInfo, around: Around) -> None:
        super().__init__()
        self.around = around
        self.stem = ConvNorm(info.channels, around.stem_channels, 3, around.stem_stride)
        first = Place(around.stem_channels, around.first_channels, 1, around.activation)
        self.first = InvertedResidual(first, Block(kernel=3, expansion=1))
        self.head = ConvNorm(around.last_channels, around.head_channels)
        self.classifier = Classifier(around.head_channels, info.num_classes)

    def forward(self, images: Tensor, steps: Iterable[Step]) -> Tensor:
        activation = ACTIVATIONS[self.around.activation]
        state: Tensor = self.first(activation(self.stem(resized(images, self.around.resolution))))
        for step in steps:
            state = step(state)
        logits: Tensor = self.classifier(activation(self.head(state)))
        return logits


def resized(images: Tensor, size: int) -> Tensor:
    """Images (images, channels, size, size) of another size, bilinearly."""
    if images.shape[2] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)


class MobileNetwork(nn.Module):
    """A skeleton with the blocks of its stages: images -> logits."""

    def __init__(self, skeleton: MobileSkeleton, stages: Iterable[Sequence[InvertedResidual]]) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)

    def forward(self, images: Tensor) -> Tensor:
        stages = cast(Iterable[nn.ModuleList], self.stages)
        logits: Tensor = self.skeleton(images, chain.from_iterable(stages))
        return logits


def stage_places(
    in_channels: int, out_channels: int, stride: int, num_layers: int, activation: Activation
) -> tuple[Place, ...]:
    """The first block of a stage changes the size and the width, the others keep them."""
    first = Place(in_channels, out_channels, stride, activation)
    return first, *(Place(out_channels, out_channels, 1, activation) for _ in range(num_layers - 1))


def scaled(channels: int, multiplier: float) -> int:
    """Channels times a width multiplier, in multiples of 8 that lose at most a tenth, as in MobileNetV2."""
    if multiplier == 1.0:
        return channels
    wanted = channels * multiplier
    rounded = max(8, int(wanted / 8 + 0.5) * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
