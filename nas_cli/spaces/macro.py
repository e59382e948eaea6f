"""How deep and how wide: a chain of stages with a choice of depth, and of channels and operation a stage."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, cast

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.sliced import (
    FIXED,
    PLAIN_SLICED,
    SLICED,
    Operation,
    SlicedBatchNorm,
    SlicedClassifier,
    make_operation,
    take_slices,
)
from nas_cli.layers.stages import ChainNetwork, MixedLayer, ResidualLayer, Stage, make_end, make_entries
from nas_cli.layers.stem import check_image_size
from nas_cli.space import CellGraph, SearchSpace, ascending
from nas_cli.supernet import Gate, Part, Pick, Supernet, SupernetOptions


def distinct(names: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if len(set(names)) < len(names):
        raise ValueError("none twice")
    return names


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), AfterValidator(ascending)]
Operations = Annotated[tuple[Operation, ...], Field(min_length=1), AfterValidator(distinct)]


class MacroSpace(SearchSpace):
    """Stages of residual layers of one width and one operation each; layer k of L is in stage floor(k S / L).

    `depth` is the number of layers in all stages, `stage<s>.channels` the width of stage s and
    `stage<s>.operation` what its layers compute: y = x + operation(x). So every combination is a network:
    a layer of `none` adds nothing, and where there are more stages than layers a stage may be empty. A
    stage begins with a convolution that changes the width, the stem or one of stride 2; these are not
    counted. Networks that differ in the spelling alone (the operation of an empty stage, the layers of a
    stage of `none`) are one under `canonical`.

    Raises UnsupportedError for images too small for the reductions, ConfigError where a stage is empty at
    every depth.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        num_stages: Annotated[int, Field(ge=1, le=5)] = 3,
        depths: Sizes = (2, 4, 6),
        widths: Sizes = (8, 16, 32),
        operations: Operations = (
            "conv3x3",
            "depthwise_conv3x3",
            "max_pool3x3",
            "skip_connect",
            "sep_conv3x3",
            "sep_conv5x5",
        ),
    ) -> None:
        check_image_size(info, num_stages - 1)
        _check_that_every_setting_matters(num_stages, depths, operations)
        self.info = info
        self.num_stages = num_stages
        self.depths = depths
        self.widths = widths
        self.operations = operations
        # For each depth the number of layers of each stage.
        self.layers_of = tuple(_layers_of_stages(depth, num_stages) for depth in depths)
        self.choices = (
            Choice("depth", depths),
            *(choice for stage in range(num_stages) for choice in self._choices_of(stage)),
        )

    def _choices_of(self, stage: int) -> tuple[Choice, Choice]:
        return (
            Choice(f"stage{stage}.channels", self.widths),
            Choice(f"stage{stage}.operation", self.operations),
        )

    def stages(self, architecture: Architecture) -> tuple[Stage, ...]:
        depth, *rest = architecture.picks
        return tuple(
            Stage(self.widths[width], self.operations[operation], num_layers)
            for width, operation, num_layers in zip(rest[::2], rest[1::2], self.layers_of[depth], strict=True)
        )

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> "ChainNetwork":
        if auxiliary_head:
            raise UnsupportedError(
                "A network of this space has no auxiliary head; set recipe.auxiliary_weight=0."
            )
        return ChainNetwork(self.info, self.stages(architecture))

    def build_supernet(self, options: SupernetOptions) -> "MacroSupernet":
        return MacroSupernet(self, options)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The same layers with the least index of depth, then of each stage's operation."""
        working = [stage.num_working for stage in self.stages(architecture)]
        depth = next(pick for pick, layers in enumerate(self.layers_of) if self._fits(layers, working))
        rest = list(architecture.picks[1:])
        for stage, (num_layers, num_working) in enumerate(zip(self.layers_of[depth], working, strict=True)):
            if num_working == 0:
                rest[2 * stage + 1] = self.operations.index("none") if num_layers else 0
        return Architecture((depth, *rest))

    def _fits(self, layers: Sequence[int], working: Sequence[int]) -> bool:
        """Whether stages of so many layers can have so many that compute something."""
        return all(
            num_layers == num_working or (num_working == 0 and "none" in self.operations)
            for num_layers, num_working in zip(layers, working, strict=True)
        )

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        nodes = ("image", *(f"stage{stage}" for stage in range(self.num_stages)))
        edges = tuple(
            (before, after, _label(stage))
            for before, after, stage in zip(nodes, nodes[1:], self.stages(architecture), strict=False)
        )
        return {"network": CellGraph(nodes[:1], edges, nodes[-1:])}


def _layers_of_stages(depth: int, num_stages: int) -> tuple[int, ...]:
    stages = [layer * num_stages // depth for layer in range(depth)]
    return tuple(stages.count(stage) for stage in range(num_stages))


def _check_that_every_setting_matters(
    num_stages: int, depths: tuple[int, ...], operations: tuple[Operation, ...]
) -> None:
    if depths[-1] < num_stages:
        raise ConfigError(
            f"space.depths={list(depths)}: the deepest network has fewer layers than the "
            f"{num_stages} stages of space.num_stages, so that a stage's operation would have no effect. "
            f"Add a depth of {num_stages} or more, or lower space.num_stages."
        )
    if operations == ("none",):
        raise ConfigError("space.operations=[none]: no layer would compute anything. Add an operation.")


def _label(stage: Stage) -> str:
    layers = f"{stage.num_working} x {stage.operation}" if stage.num_working else "no layers"
    return f"{stage.width} channels, {layers}"


class MacroSupernet(Supernet):
    """One network of the greatest depth and widths, of which an architecture uses a part.

    A width uses the first channels of the weights (slimmable networks, arXiv:1812.08928), a depth the first
    layers of each stage; the operations of a layer have weights of their own. Gate k weighs the options of
    choice k, whose name is `gate_names[k]`: gate 0 the depths, the others in turn the channels and the
    operations of a stage. The last option of `depth` and of `channels` is the largest.

    Under several active candidates the operations of a layer are summed by their weights, a stage's output
    is the sum of its possible ends by the weights of the depths, and a channel is scaled by the weights
    of the widths that have it, wherever it is computed (FBNetV2, arXiv:2004.05565). Unlike there, the
    layers of a stage share one gate. What is not active is not computed; the operations' row may be empty.
    """

    masks: Tensor

    def __init__(self, space: MacroSpace, options: SupernetOptions) -> None:
        super().__init__()
        options.form_of("elastic")
        _refuse_partial_channels(options)
        self.space = space
        self.checkpoint = options.checkpoint
        self.gate_names = tuple(choice.name for choice in space.choices)
        self.candidates = tuple(tuple(str(option) for option in choice.options) for choice in space.choices)
        self.gate_shapes = tuple((1, len(names)) for names in self.candidates)
        kit, widest = PLAIN_SLICED if options.plain else SLICED, space.widths[-1]
        self.entries = make_entries(space.info, [widest] * space.num_stages, kit)
        self.stages = nn.ModuleList(
            nn.ModuleList(MixedLayer(space.operations, widest, kit) for _ in range(max(num_layers)))
            for num_layers in zip(*space.layers_of, strict=True)
        )
        self.norm = SlicedBatchNorm(widest)
        self.classifier = SlicedClassifier(widest, space.info.num_classes)
        masks = torch.tensor([[channel < width for channel in range(widest)] for width in space.widths])
        self.register_buffer("masks", masks.float(), persistent=False)

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple((name,) for name in self.gate_names)

    def parts(self, info: ImageInfo, batch_size: int) -> Iterator[Part]:
        """What a network has depends on picks together: a layer's time on its stage's width and operation."""
        shapes = self.input_shapes(info, batch_size)
        for stage, layers in enumerate(cast(Iterable[nn.ModuleList], self.stages)):
            yield from self._entry_parts(stage, shapes[id(self.entries[stage])])
            yield from self._layer_parts(stage, shapes[id(layers[0])])
        images, _, *size = shapes[id(self.norm)]
        for pick, width in enumerate(self.space.widths):
            last = _width_pick(self.space.num_stages - 1, pick)
            yield Part((last,), make_end(width, info.num_classes), (images, width, *size))

    def _entry_parts(self, stage: int, shape: tuple[int, ...]) -> Iterator[Part]:
        """What a stage begins with, from each width of the stage before to each of its own."""
        widths, (images, _, *size) = self.space.widths, shape
        for pick, after in enumerate(widths):
            if stage == 0:
                (entry,) = make_entries(self.space.info, [after], FIXED)
                yield Part((_width_pick(0, pick),), entry, shape)
                continue
            for earlier, before in enumerate(widths):
                _, entry = make_entries(self.space.info, [before, after], FIXED)
                picks = _width_pick(stage - 1, earlier), _width_pick(stage, pick)
                yield Part(picks, entry, (images, before, *size))

    def _layer_parts(self, stage: int, shape: tuple[int, ...]) -> Iterator[Part]:
        """The layers of a stage, by width, operation and depth."""
        images, _, *size = shape
        for width_pick, width in enumerate(self.space.widths):
            for operation, name in enumerate(self.space.operations):
                layer = ResidualLayer(make_operation(name, width, FIXED))
                for depth, layers in enumerate(self.space.layers_of):
                    picks = (0, 0, depth), _width_pick(stage, width_pick), (2 * stage + 2, 0, operation)
                    if count := Stage(width, name, layers[stage]).num_working:
                        yield Part(picks, layer, (images, width, *size), count)

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        depths, *stage_gates = (active_weights(gate) for gate in gates)
        state = images
        for stage, (widths, operations) in enumerate(zip(stage_gates[::2], stage_gates[1::2], strict=True)):
            mask = self._mask(widths)
            scales = self._scales(operations, mask)
            state = mask * self.entries[stage](state, mask.shape[1])
            state = self._mix_depths(state, stage, depths, scales)
        # The norm would undo the mask.
        features = mask * torch.relu(self.norm(state))
        logits: Tensor = self.classifier(features)
        return logits + _nothing(depths, *stage_gates)

    def _mask(self, widths: Mapping[int, Tensor]) -> Tensor:
        """The scale (1, widest active width, 1, 1) of each channel."""
        used = max(self.space.widths[pick] for pick in widths)
        scales = [weight * self.masks[pick, :used] for pick, weight in widths.items()]
        return sum(scales[1:], scales[0]).view(1, used, 1, 1)

    def _scales(self, operations: Mapping[int, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """The scale of each channel of each operation that computes something."""
        names = {pick: self.space.operations[pick] for pick in operations}
        return {name: operations[pick] * mask for pick, name in names.items() if name != "none"}

    def _mix_depths(
        self, state: Tensor, stage: int, depths: Mapping[int, Tensor], scales: Mapping[str, Tensor]
    ) -> Tensor:
        """The sum of the outputs of the stage's possible ends, which several depths may have in common."""
        ends: dict[int, Tensor] = {}
        for pick, weight in depths.items():
            end = self.space.layers_of[pick][stage]
            ends[end] = ends[end] + weight if end in ends else weight
        layers, states = cast(nn.ModuleList, self.stages[stage]), [state]
        for layer in layers[: max(ends)]:
            step = step_of(layer, checkpointed=self.checkpoint)
            states.append(cast(Tensor, step(states[-1], scales)))
        weighed = [weight * states[end] for end, weight in ends.items()]
        return sum(weighed[1:], weighed[0])

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        return [
            Gate.one_hot([pick], count, self.classifier.linear.weight)
            for pick, (_, count) in zip(architecture.picks, self.gate_shapes, strict=True)
        ]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The strongest candidate of every gate."""
        picks = Architecture(tuple(int(rows[0].argmax()) for rows in weights))
        return self.space.canonical(picks)

    def cut_out(self, architecture: Architecture) -> ChainNetwork:
        with torch.device("meta"):  # draws no random numbers
            network = self.space.build(architecture)
        for part, source in _sources(self.space.stages(architecture)).items():
            take_slices(network.get_submodule(part), self.get_submodule(source))
        return network.train(self.training)


def _sources(stages: Sequence[Stage]) -> dict[str, str]:
    """{module of a network: the module of the supernet that it is sliced from}."""
    around = {name: name for name in ("entries", "norm", "classifier")}
    return around | {
        f"stages.{index}.{layer}.operation": f"stages.{index}.{layer}.operations.{stage.operation}"
        for index, stage in enumerate(stages)
        for layer in range(stage.num_working)
    }


def _width_pick(stage: int, pick: int) -> Pick:
    return 2 * stage + 1, 0, pick


def active_weights(gate: Gate) -> dict[int, Tensor]:
    """{candidate: weight} of the active candidates of a gate of one row."""
    weights, (active,) = gate.weights[0].unbind(), gate.active
    return {candidate: weights[candidate] for candidate in active}


def _nothing(*gates: Mapping[int, Tensor]) -> Tensor:
    """Zero, made of all active weights: one whose pick computes nothing then has a gradient too, of zero."""
    return 0 * torch.stack([weight for gate in gates for weight in gate.values()]).sum()


def _refuse_partial_channels(options: SupernetOptions) -> None:
    if options.partial_channels > 1:
        raise UnsupportedError(
            "This strategy lets a part of the channels bypass the operations of a cell, and here their "
            "number is searched. Choose space=darts or space=nasbench201."
        )
