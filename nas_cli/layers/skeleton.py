"""The network around the cells, which DARTS and its followers keep fixed (arXiv:1806.09055, section 3).

A cell reads the outputs of the two cells before it and joins some of its states, DARTS' all its nodes. The
cells at one and at two thirds of the depth halve the maps and double the channels.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.data import ImageInfo
from nas_cli.layers.cell import CellPlan, DiscreteCell
from nas_cli.layers.head import AuxiliaryHead, Classifier
from nas_cli.layers.operations import FactorizedReduce, ReluConvBN
from nas_cli.layers.stem import LargeStem, SmallStem, halved, make_stem, size_after_stem
from nas_cli.supernet import Gate

Step = Callable[[list[Tensor]], list[Tensor]]
"""What a cell computes: from its input states to the states that it joins."""


@dataclass(frozen=True, slots=True)
class Place:
    """One cell's place: its kind, the channels of its nodes, what it reads from the two cells before.

    `out_channels` are those of all the states that it joins.
    """

    kind: str
    channels: int
    in_channels: tuple[int, int]
    out_channels: int
    first_is_larger: bool


class Skeleton(nn.Module):
    """Stem, the layers that bring a cell's inputs to its width and size, and the classifier.

    `places` says what cells belong into it; `forward` takes what they compute, so that one skeleton
    serves the supernet and the networks cut out of it. `num_joined`: for each kind of cell how many states
    it joins.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        channels: int,
        num_cells: int,
        num_joined: Mapping[str, int],
        affine: bool,
    ) -> None:
        super().__init__()
        self.stem = make_stem(info, channels)
        self.places = _places(self.stem, channels, num_cells, num_joined)
        self.before_last = nn.ModuleList(_first_input(place, affine) for place in self.places)
        self.last = nn.ModuleList(
            ReluConvBN(place.in_channels[1], place.channels, 1, 1, 0, affine=affine) for place in self.places
        )
        self.classifier = Classifier(self.places[-1].out_channels, info.num_classes)

    def forward(self, images: Tensor, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """Logits, and the maps at two thirds of the depth, which an auxiliary head reads."""
        before_last, last = self.stem(images)
        for index, (step, first, second) in enumerate(zip(steps, self.before_last, self.last, strict=True)):
            joined = torch.cat(step([first(before_last), second(last)]), dim=1)
            before_last, last = last, joined
            if index == 2 * len(steps) // 3:
                maps = joined
        logits: Tensor = self.classifier(last)
        return logits, maps

    def narrowed(self, kept: Mapping[str, Sequence[int]]) -> "Skeleton":
        """A copy for cells that join fewer states; `kept`: by kind, which of those joined here stay."""
        copy = deepcopy(self)
        num_joined = {kind: len(positions) for kind, positions in kept.items()}
        copy.places = _places(self.stem, self.places[0].channels, len(self.places), num_joined)
        for index, place in enumerate(self.places):
            channels = torch.arange(place.out_channels).view(-1, place.channels)[list(kept[place.kind])]
            for reader in copy.readers_of(index):
                _read_only(reader, channels.flatten())
        return copy

    def readers_of(self, index: int) -> list[nn.Module]:
        """What reads the joined states of a cell: the cells one and two later, or the classifier."""
        one_later = [*self.last, self.classifier][index + 1]
        return [one_later, *self.before_last[index + 2 : index + 3]]


def _read_only(layer: nn.Module, channels: Tensor) -> None:
    """Cut the weights of all other channels out of a layer's convolutions or its linear layer."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            module.weight = nn.Parameter(weight[:, channels.to(weight.device)])
        if isinstance(module, nn.Conv2d):
            module.in_channels = len(channels)
        elif isinstance(module, nn.Linear):
            module.in_features = len(channels)


def _places(
    stem: SmallStem | LargeStem, channels: int, num_cells: int, num_joined: Mapping[str, int]
) -> list[Place]:
    places = []
    in_channels, first_is_larger = (stem.channels, stem.channels), stem.shrinks
    for index in range(num_cells):
        reduces = index in (num_cells // 3, 2 * num_cells // 3)
        kind = "reduction" if reduces else "normal"
        channels *= 2 if reduces else 1
        places.append(Place(kind, channels, in_channels, num_joined[kind] * channels, first_is_larger))
        in_channels, first_is_larger = (in_channels[1], places[-1].out_channels), reduces
    return places


def _first_input(place: Place, affine: bool) -> nn.Module:
    if place.first_is_larger:
        return FactorizedReduce(place.in_channels[0], place.channels, affine=affine)
    return ReluConvBN(place.in_channels[0], place.channels, 1, 1, 0, affine=affine)


class SkeletonNetwork(nn.Module):
    """A skeleton with its cells: images -> logits; training with a head gives (logits, auxiliary logits)."""

    def __init__(
        self, skeleton: nn.Module, cells: Sequence[DiscreteCell], head: AuxiliaryHead | None = None
    ) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.cells = nn.ModuleList(cells)
        self.auxiliary_head = head

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits: Tensor
        logits, maps = self.skeleton(images, list(self.cells))
        if self.auxiliary_head is None or not self.training:
            return logits
        return logits, self.auxiliary_head(maps)


def make_auxiliary_head(info: ImageInfo, skeleton: Skeleton) -> AuxiliaryHead:
    """The head for the maps at two thirds of the depth, where both reductions are behind."""
    place = skeleton.places[2 * len(skeleton.places) // 3]
    return AuxiliaryHead(place.out_channels, halved(size_after_stem(info), 2), info.num_classes)


def one_hot_gates(plan: CellPlan, picks: Sequence[str | None], like: Tensor) -> list[Gate]:
    """The gates of a cell, one a source state. `picks`: one an edge of the plan, None leaves it out."""
    chosen = dict(zip(plan.edges, picks, strict=True))
    gates = []
    for source in plan.sources:
        row_picks = [chosen[edge] for edge in plan.edges_from(source)]
        indices = [None if pick is None else plan.candidates.index(pick) for pick in row_picks]
        gates.append(Gate.one_hot(indices, len(plan.candidates), like))
    return gates
