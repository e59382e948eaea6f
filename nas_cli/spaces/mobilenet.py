"""Inverted residual blocks with choices of kernel, expansion and depth: ProxylessNAS and Once-for-All."""

import itertools
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.elastic import ElasticInvertedResidual
from nas_cli.layers.inverted_residual import Activation, Block, InvertedResidual, MixedInvertedResidual
from nas_cli.layers.mobile_network import Around, MobileNetwork, MobileSkeleton, scaled, stage_places
from nas_cli.layers.stem import LARGEST_SMALL_IMAGE, check_image_size
from nas_cli.recipe import Count, Positive
from nas_cli.space import CellGraph, SearchSpace, ascending
from nas_cli.supernet import Gate, Supernet, SupernetOptions


def odd(kernels: tuple[int, ...]) -> tuple[int, ...]:
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ValueError("all odd: an even kernel has no centre")
    return kernels


Depths = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(ascending)]
Kernels = Annotated[
    tuple[Annotated[int, Field(ge=3)], ...],
    Field(min_length=1),
    AfterValidator(odd),
    AfterValidator(ascending),
]
Expansions = Annotated[
    tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1), AfterValidator(ascending)
]
StageChannels = Annotated[tuple[Count, ...], Field(min_length=1)]
StageStrides = Annotated[tuple[Literal[1, 2], ...], Field(min_length=1)]

SKIP = "skip"


Layer = MixedInvertedResidual | ElasticInvertedResidual
Stages = tuple[tuple[Block, ...], ...]
"""The blocks of each stage, as many as it is deep."""


class MobileNet(SearchSpace):
    """Stages of MobileNetV2's inverted residual blocks (arXiv:1801.04381); the first block of one may stride.

    `stage<s>.depth` is the number of blocks of stage s, `stage<s>.layer<l>.kernel` the depthwise kernel of
    block l and `stage<s>.layer<l>.expansion` how many times as wide it is inside; all count from 0. Options
    are ascending: the last of each is the largest network. What is picked for layers beyond the depth is
    not used, and `canonical` spells it with the first options.

    Deviations: one activation throughout and no squeeze-and-excitation, where Once-for-All
    (arXiv:1908.09791) searches in MobileNetV3 (arXiv:1905.02244), which has both; the resolution is a
    setting, where Once-for-All samples it as it trains; every stage has the same options of depth,
    where the last one of ProxylessNAS (arXiv:1812.00332) has one block.

    Raises ConfigError for stages that do not fit together, UnsupportedError for images too small for them.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        stem_channels: Count = 16,
        stem_stride: Literal[1, 2] | None = None,
        first_channels: Count = 16,
        stage_channels: StageChannels = (16, 24, 40),
        stage_strides: StageStrides = (1, 2, 2),
        head_channels: Count = 128,
        depths: Depths = (2, 3, 4),
        kernels: Kernels = (3, 5, 7),
        expansions: Expansions = (3, 4, 6),
        width_multiplier: Positive = 1.0,
        resolution: Annotated[int, Field(ge=8)] | None = None,
        activation: Activation = "relu6",
    ) -> None:
        if len(stage_channels) != len(stage_strides):
            raise ConfigError(
                f"space.stage_channels={list(stage_channels)} are {len(stage_channels)} stages and "
                f"space.stage_strides={list(stage_strides)} are {len(stage_strides)}. "
                "Give one number a stage in both."
            )
        size = resolution or info.size
        stem_stride = stem_stride or (1 if size <= LARGEST_SMALL_IMAGE else 2)
        _check_size(replace(info, size=size), (stem_stride, *stage_strides))
        self.info = info
        self.depths, self.kernels, self.expansions = depths, kernels, expansions
        widths = [scaled(channels, width_multiplier) for channels in (first_channels, *stage_channels)]
        self.around = Around(
            stem_stride=stem_stride,
            stem_channels=scaled(stem_channels, width_multiplier),
            first_channels=widths[0],
            last_channels=widths[-1],
            head_channels=scaled(head_channels, max(width_multiplier, 1.0)),
            resolution=size,
            activation=activation,
        )
        self.places = tuple(
            stage_places(before, width, stride, depths[-1], activation)
            for (before, width), stride in zip(itertools.pairwise(widths), stage_strides, strict=True)
        )
        self.choices = tuple(choice for stage in range(len(stage_strides)) for choice in self._choices(stage))

    def _choices(self, stage: int) -> list[Choice]:
        layers = [f"stage{stage}.layer{layer}" for layer in range(self.depths[-1])]
        blocks = [
            choice
            for layer in layers
            for choice in (
                Choice(f"{layer}.kernel", self.kernels),
                Choice(f"{layer}.expansion", self.expansions),
            )
        ]
        return [Choice(f"stage{stage}.depth", self.depths), *blocks]

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> MobileNetwork:
        if auxiliary_head:
            raise UnsupportedError(
                "A network of space=mobilenet has no auxiliary head; set recipe.auxiliary_weight=0."
            )
        stages = [
            [InvertedResidual(place, block) for place, block in zip(places, blocks, strict=False)]
            for places, blocks in zip(self.places, self.stages(architecture), strict=True)
        ]
        return MobileNetwork(self.make_skeleton(), stages)

    def build_supernet(self, options: SupernetOptions) -> Supernet:
        """Form side_by_side has the candidates of ProxylessNAS, form elastic the layers of Once-for-All."""
        if options.partial_channels > 1:
            raise UnsupportedError(
                "This strategy shows its candidates a part of the channels, and the blocks of "
                "space=mobilenet change their number. Choose space=darts or space=nasbench201."
            )
        if options.form_of("side_by_side", "elastic") == "elastic":
            return ElasticMobileNet(self, options)
        return SideBySideMobileNet(self, options)

    def make_skeleton(self) -> MobileSkeleton:
        return MobileSkeleton(self.info, self.around)

    def stages(self, architecture: Architecture) -> Stages:
        options = cast(dict[str, int], self.options_of(architecture))
        return tuple(
            tuple(
                Block(options[f"{name}.kernel"], options[f"{name}.expansion"])
                for name in (f"stage{stage}.layer{layer}" for layer in range(options[f"stage{stage}.depth"]))
            )
            for stage in range(len(self.places))
        )

    def architecture_from(self, stages: Stages) -> Architecture:
        """The inverse of `stages`, with the first options in the layers that are not used."""
        options = {choice.name: choice.options[0] for choice in self.choices}
        for stage, blocks in enumerate(stages):
            options[f"stage{stage}.depth"] = len(blocks)
            for layer, block in enumerate(blocks):
                options[f"stage{stage}.layer{layer}.kernel"] = block.kernel
                options[f"stage{stage}.layer{layer}.expansion"] = block.expansion
        return self.architecture_of(options)

    def canonical(self, architecture: Architecture) -> Architecture:
        return self.architecture_from(self.stages(architecture))

    def spell(self, architecture: Architecture) -> str:
        """Kernel and expansion of each block, stage by stage: `k3e6 k5e3 | k7e4 k3e3`."""
        return " | ".join(
            " ".join(f"k{block.kernel}e{block.expansion}" for block in blocks)
            for blocks in self.stages(architecture)
        )

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        """A chain of blocks for each stage."""
        return {f"stage{stage}": _chain(blocks) for stage, blocks in enumerate(self.stages(architecture))}


def _check_size(info: ImageInfo, strides: Sequence[int]) -> None:
    """Raises UnsupportedError where the last maps would be smaller than 2x2."""
    try:
        check_image_size(info, num_reductions=strides.count(2))
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} space.resolution resizes them on the fly.") from error


def _chain(blocks: Sequence[Block]) -> CellGraph:
    edges = tuple(
        (str(layer), str(layer + 1), f"{block.kernel}x{block.kernel}, expansion {block.expansion}")
        for layer, block in enumerate(blocks)
    )
    return CellGraph(("0",), edges, (str(len(blocks)),))


class MobileNetSupernet(Supernet):
    """What both forms share: `stages` holds for each stage a layer for each place."""

    stages: nn.ModuleList

    def __init__(self, space: MobileNet, options: SupernetOptions) -> None:
        super().__init__()
        self.space = space
        self.checkpoint = options.checkpoint
        self.skeleton = space.make_skeleton()

    def cut_out(self, architecture: Architecture) -> MobileNetwork:
        """It has the layers of `space.build`, by the same names."""
        stages = [[layer.cut_out(block) for layer, block in used] for used in self._used(architecture)]
        return MobileNetwork(deepcopy(self.skeleton), stages).train(self.training)

    def _used(self, architecture: Architecture) -> list[list[tuple[Layer, Block]]]:
        """For each stage the layers that an architecture uses, and what it has there."""
        stages = cast(Iterable[Sequence[Layer]], self.stages)
        return [
            list(zip(layers, blocks, strict=False))
            for layers, blocks in zip(stages, self.space.stages(architecture), strict=True)
        ]


class SideBySideMobileNet(MobileNetSupernet):
    """ProxylessNAS' form: every layer has all its candidates, each with weights of its own.

    Gates: one a layer in the order of the network, of one row. Layers beyond the least depth have a last
    candidate `skip`, which gives what it gets (the paper's zero operation beside a shortcut). Soft gates
    mix whole blocks, shortcut included, which is the paper's sum wherever the weights sum to 1.

    `discretise` takes each layer's strongest candidate, and the blocks of a stage close ranks where a
    layer was skipped: `gates_of` the result may open other layers than the strongest ones.

    Raises UnsupportedError where depths are left out between the least and the greatest.
    """

    def __init__(self, space: MobileNet, options: SupernetOptions) -> None:
        super().__init__(space, options)
        least, most = space.depths[0], space.depths[-1]
        if space.depths != tuple(range(least, most + 1)):
            raise UnsupportedError(
                f"space.depths={list(space.depths)}: this strategy may skip any layer beyond the least "
                f"depth, so it needs every depth between. Set space.depths={list(range(least, most + 1))}."
            )
        self.blocks = [Block(*sizes) for sizes in itertools.product(space.kernels, space.expansions)]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                MixedInvertedResidual(place, self.blocks, skip=layer >= least, plain=options.plain)
                for layer, place in enumerate(places)
            )
            for places in space.places
        )
        names = tuple(f"kernel{block.kernel}_expansion{block.expansion}" for block in self.blocks)
        self.candidates = tuple(
            (*names, SKIP) if layer >= least else names for _ in space.places for layer in range(most)
        )
        self.gate_shapes = tuple((1, len(names)) for names in self.candidates)

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (f"stage{stage}.layer{layer}",)
            for stage, layers in enumerate(cast(Iterable[nn.ModuleList], self.stages))
            for layer in range(len(layers))
        )

    @property
    def layers(self) -> list[MixedInvertedResidual]:
        """All layers in the order of the network, which is that of the gates."""
        return list(
            itertools.chain.from_iterable(cast(Iterable[Iterable[MixedInvertedResidual]], self.stages))
        )

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        steps = [
            partial(step_of(layer, checkpointed=self.checkpoint), gate=gate)
            for layer, gate in zip(self.layers, gates, strict=True)
        ]
        logits: Tensor = self.skeleton(images, steps)
        return logits

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        return [self.layers[gate].candidates[candidate]]

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        (module,) = self.candidate_modules(gate, row, candidate)
        if isinstance(module, InvertedResidual):
            return [InvertedResidual(module.place, self.blocks[candidate])]
        return [module]

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        """The first layers of each stage are open, those beyond its depth skipped."""
        like, most = next(self.parameters()), self.space.depths[-1]
        skip = len(self.blocks)
        picks = [
            self.blocks.index(blocks[layer]) if layer < len(blocks) else skip
            for blocks in self.space.stages(architecture)
            for layer in range(most)
        ]
        return [
            Gate.one_hot([pick], candidates, like)
            for pick, (_, candidates) in zip(picks, self.gate_shapes, strict=True)
        ]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The strongest candidate of every layer; skipped layers make the stage shallower."""
        strongest = iter([int(rows.argmax()) for rows in weights])
        stages = (itertools.islice(strongest, self.space.depths[-1]) for _ in self.space.places)
        return self.space.architecture_from(
            tuple(tuple(self.blocks[pick] for pick in picks if pick < len(self.blocks)) for picks in stages)
        )


class ElasticMobileNet(MobileNetSupernet):
    """Once-for-All's form: one block a layer, from which the smaller ones are cut (arXiv:1908.09791).

    Gates: one a choice, in the order of `space.choices`, of one row whose candidates are the options
    (`depth2`, `kernel5`, `expansion6`). One candidate of a row is active; its weight is not read.

    A depth is the first blocks of a stage; kernels and expansions are cut as `ElasticInvertedResidual` does.
    All widths track one set of batch statistics, so those of a sub-network must be measured anew.
    """

    def __init__(self, space: MobileNet, options: SupernetOptions) -> None:
        super().__init__(space, options)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticInvertedResidual(place, space.kernels, space.expansions, plain=options.plain)
                for place in places
            )
            for places in space.places
        )
        self.candidates = tuple(
            tuple(f"{choice.name.rpartition('.')[2]}{option}" for option in choice.options)
            for choice in space.choices
        )
        self.gate_shapes = tuple((1, len(names)) for names in self.candidates)

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple((choice.name,) for choice in self.space.choices)

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        used = itertools.chain.from_iterable(self._used(self._opened(gates)))
        steps = [partial(step_of(layer, checkpointed=self.checkpoint), block=block) for layer, block in used]
        logits: Tensor = self.skeleton(images, steps)
        return logits

    def _opened(self, gates: Sequence[Gate]) -> Architecture:
        for choice, gate in zip(self.space.choices, gates, strict=True):
            if len(gate.active[0]) != 1:
                raise UnsupportedError(
                    f"This strategy opens {len(gate.active[0])} candidates of {choice.name} at once, and the "
                    "elastic form of space=mobilenet computes one. Use a strategy that samples one path, "
                    "such as strategy=ofa, or one that takes the form side_by_side, such as strategy=darts."
                )
        return Architecture(tuple(gate.active[0][0] for gate in gates))

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        like, picks = next(self.parameters()), self.space.canonical(architecture).picks
        return [
            Gate.one_hot([pick], candidates, like)
            for pick, (_, candidates) in zip(picks, self.gate_shapes, strict=True)
        ]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The strongest option of every choice."""
        return self.space.canonical(Architecture(tuple(int(rows.argmax()) for rows in weights)))

    def sort_channels(self, narrowest: int | None = None) -> None:
        """Put the important channels first (section 3.3), where small expansions find them.

        Only the channels of the expansion `narrowest` change places (None: of the largest). The
        optimiser's momentum still has the old order.
        """
        expansion = self.space.expansions[-1] if narrowest is None else narrowest
        for layer in itertools.chain.from_iterable(
            cast(Iterable[Iterable[ElasticInvertedResidual]], self.stages)
        ):
            layer.sort_channels(expansion)
