"""A chain of stages: the one network that an architecture says, and the layers of all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.data import ImageInfo
from nas_cli.layers.head import Classifier
from nas_cli.layers.sliced import FIXED, Kit, make_operation
from nas_cli.layers.stem import LARGEST_SMALL_IMAGE


@dataclass(frozen=True, slots=True)
class Stage:
    """What an architecture has between two reductions."""

    width: int
    operation: str
    num_layers: int

    @property
    def num_working(self) -> int:
        """The layers that compute something."""
        return 0 if self.operation == "none" else self.num_layers


def make_entries(info: ImageInfo, widths: Sequence[int], kit: Kit) -> nn.ModuleList:
    """The convolutions that stages begin with: the stem, and one of stride 2 before each later stage.

    The stem of images above 64 pixels leaves a quarter of their size.
    """
    stem = (1,) if info.size <= LARGEST_SMALL_IMAGE else (2, 2)
    before = (info.channels, *widths[:-1])
    strides = (stem, *((2,) for _ in widths[1:]))
    return nn.ModuleList(
        _make_entry(in_channels, out_channels, each, kit)
        for in_channels, out_channels, each in zip(before, widths, strides, strict=True)
    )


def _make_entry(in_channels: int, out_channels: int, strides: Sequence[int], kit: Kit) -> nn.Sequential:
    layers: list[nn.Module] = []
    for stride in strides:
        conv = kit.conv(in_channels, out_channels, 3, stride)
        layers += [conv, kit.norm(out_channels), nn.ReLU()]
        in_channels = out_channels
    return kit.sequence(*layers)


class ResidualLayer(nn.Module):
    """y = x + operation(x)."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.operation(x)
        return y


class ChainNetwork(nn.Module):
    """Stages one after the other: images -> logits."""

    def __init__(self, info: ImageInfo, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.entries = make_entries(info, [stage.width for stage in stages], FIXED)
        self.stages = nn.ModuleList(_make_layers(stage) for stage in stages)
        self.norm = nn.BatchNorm2d(stages[-1].width)
        self.classifier = Classifier(stages[-1].width, info.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        state = images
        for entry, layers in zip(self.entries, self.stages, strict=True):
            state = layers(entry(state))
        logits: Tensor = self.classifier(torch.relu(self.norm(state)))
        return logits


def make_end(width: int, num_classes: int) -> nn.Sequential:
    """What follows the last stage, as one module."""
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), Classifier(width, num_classes))


def _make_layers(stage: Stage) -> nn.Sequential:
    operations = (make_operation(stage.operation, stage.width, FIXED) for _ in range(stage.num_working))
    return nn.Sequential(*(ResidualLayer(operation) for operation in operations))


class MixedLayer(nn.Module):
    """x plus the sum of scale times operation(x), the operations given by name."""

    def __init__(self, names: Sequence[str], channels: int, kit: Kit) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {name: make_operation(name, channels, kit) for name in names if name != "none"}
        )

    def forward(self, x: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        total = x
        for name, scale in scales.items():
            total = torch.addcmul(total, self.operations[name](x), scale)
        return total
