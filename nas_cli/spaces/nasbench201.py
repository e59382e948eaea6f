"""The 15,625 cells of NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326), each with a known result."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice, GenotypeText
from nas_cli.data import ImageInfo
from nas_cli.errors import GenotypeError, UnsupportedError
from nas_cli.layers.cell import CellPlan, DiscreteCell, Edge, SupernetCell, make_cell
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.head import Classifier
from nas_cli.layers.operations import ReluConvBN, make_operation
from nas_cli.layers.skeleton import Step, one_hot_gates
from nas_cli.layers.stem import check_image_size
from nas_cli.space import CellGraph, SearchSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# The order of the benchmark's own spelling: by target, then source.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NUM_NODES = 3
NUM_STAGES = 3
PLAN = CellPlan(
    num_inputs=1,
    num_nodes=NUM_NODES,
    edges=tuple(Edge(source, target, 1) for source, target in sorted(EDGES)),
    candidates=OPERATIONS,
    pool_norm=False,
)
TEXT_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


class NasBench201(SearchSpace):
    """One operation on each of the six edges that join node 0, the cell's input, to node 3, its output.

    Spellings are not merged although some compute the same function (all edges of node 1 unused, say):
    the benchmark trained every spelling by itself, and its row is the exact spelling.

    Raises UnsupportedError for images too small for the two reductions between the three stages.
    """

    choices = tuple(Choice(f"{source}->{target}", OPERATIONS) for source, target in EDGES)

    def __init__(
        self,
        info: ImageInfo,
        *,
        num_cells: Annotated[int, Field(ge=1)] = 5,
        channels: Annotated[int, Field(ge=1)] = 16,
    ) -> None:
        check_image_size(info, NUM_STAGES - 1)
        self.info = info
        self.num_cells = num_cells
        self.channels = channels
        self.cell_channels = tuple(
            channels * 2**stage for stage in range(NUM_STAGES) for _ in range(num_cells)
        )

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        if auxiliary_head:
            raise UnsupportedError(
                "A network of NAS-Bench-201 has no auxiliary head; set recipe.auxiliary_weight=0."
            )
        cells = [_discrete_cell(self._operations(architecture), width) for width in self.cell_channels]
        return StagedNetwork(StagedSkeleton(self.info, self.cell_channels), cells)

    def build_supernet(self, options: SupernetOptions) -> "NasBench201Supernet":
        return NasBench201Supernet(self, options)

    def _operations(self, architecture: Architecture) -> dict[tuple[int, int], str]:
        return {edge: OPERATIONS[pick] for edge, pick in zip(EDGES, architecture.picks, strict=True)}

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        edges = tuple(
            (str(source), str(target), name)
            for (source, target), name in self._operations(architecture).items()
            if name != "none"
        )
        return {"cell": CellGraph(("0",), edges, ("3",))}

    def spell(self, architecture: Architecture) -> str:
        """The benchmark's string."""
        operations = self._operations(architecture)
        nodes = (
            "|".join(f"{operations[source, target]}~{source}" for source in range(target))
            for target in range(1, NUM_NODES + 1)
        )
        return "+".join(f"|{node}|" for node in nodes)

    def parse(self, text: GenotypeText) -> Architecture:
        """Read the benchmark's string."""
        nodes = [node.strip("|").split("|") for node in text.text.strip().split("+")]
        if [len(node) for node in nodes] != [1, 2, 3]:
            raise GenotypeError(f"{text.text!r} is no cell of NAS-Bench-201, which has the form {TEXT_FORM}.")
        picks = {
            (source, target): _read_edge(edge, source, target)
            for target, node in enumerate(nodes, start=1)
            for source, edge in enumerate(node)
        }
        return Architecture(tuple(picks[edge] for edge in EDGES))


def _read_edge(text: str, source: int, target: int) -> int:
    name, _, state = text.partition("~")
    if state != str(source):
        raise GenotypeError(
            f"Edge {text!r} of node {target} must be written operation~{source}, a cell {TEXT_FORM}."
        )
    if name not in OPERATIONS:
        raise GenotypeError(
            f"There is no operation {name!r} in this space (node {target}); it has {', '.join(OPERATIONS)}."
        )
    return OPERATIONS.index(name)


def _discrete_cell(operations: dict[tuple[int, int], str], channels: int) -> DiscreteCell:
    edges = [
        (source, target, _final_operation(name, channels))
        for (source, target), name in operations.items()
        if name != "none"
    ]
    return DiscreteCell(1, NUM_NODES, edges)


def _final_operation(name: str, channels: int) -> nn.Module:
    return make_operation(name, channels, 1, affine=True, pool_norm=False)


class StagedSkeleton(nn.Module):
    """What is around the cells: stem, a residual block of stride 2 between stages, norm and classifier."""

    def __init__(self, info: ImageInfo, cell_channels: Sequence[int]) -> None:
        super().__init__()
        first, last = cell_channels[0], cell_channels[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(info.channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        )
        before = (first, *cell_channels[:-1])
        self.between = nn.ModuleList(
            nn.Identity() if width == wider else ReductionBlock(width, wider)
            for width, wider in zip(before, cell_channels, strict=True)
        )
        self.norm = nn.BatchNorm2d(last)
        self.classifier = Classifier(last, info.num_classes)

    def forward(self, images: Tensor, steps: Sequence[Step]) -> Tensor:
        state: Tensor = self.stem(images)
        for between, step in zip(self.between, steps, strict=True):
            state = step([between(state)])[-1]
        logits: Tensor = self.classifier(torch.relu(self.norm(state)))
        return logits


class ReductionBlock(nn.Module):
    """ResNet's basic block with stride 2; its shortcut is a pooling and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ReluConvBN(in_channels, out_channels, 3, 2, 1, affine=True),
            ReluConvBN(out_channels, out_channels, 3, 1, 1, affine=True),
        )
        self.shortcut = nn.Sequential(
            # The last window of an odd map hangs over its border, as the convolution's does.
            nn.AvgPool2d(2, stride=2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.shortcut(x) + self.residual(x)
        return total


class StagedNetwork(nn.Module):
    """A skeleton with its cells: images -> logits."""

    def __init__(self, skeleton: StagedSkeleton, cells: Sequence[DiscreteCell]) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.cells = nn.ModuleList(cells)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.skeleton(images, list(self.cells))
        return logits


class NasBench201Supernet(Supernet):
    """The cells of the space with shared weights; all are under the same three gates, one a source node.

    The norms of the cells have no scale and shift, as in the benchmark's weight-sharing baselines.
    """

    gate_shapes = tuple((len(PLAN.edges_from(source)), len(OPERATIONS)) for source in PLAN.sources)
    candidates = (OPERATIONS,) * len(PLAN.sources)

    def __init__(self, space: NasBench201, options: SupernetOptions) -> None:
        super().__init__()
        options.form_of("side_by_side")
        self.checkpoint = options.checkpoint
        self.skeleton = StagedSkeleton(space.info, space.cell_channels)
        self.cells = nn.ModuleList(
            make_cell(PLAN, channels, plain=options.plain, partial_channels=options.partial_channels)
            for channels in space.cell_channels
        )

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        steps = [partial(step_of(cell, checkpointed=self.checkpoint), gates=gates) for cell in self.cells]
        logits: Tensor = self.skeleton(images, steps)
        return logits

    @property
    def row_groups(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        return PLAN.row_groups

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return PLAN.row_names("cell")

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        return [cell.operation(gate, row, candidate) for cell in cast(Iterable[SupernetCell], self.cells)]

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        cells = cast(Iterable[SupernetCell], self.cells)
        return [_final_operation(OPERATIONS[candidate], cell.channels) for cell in cells]

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        return one_hot_gates(PLAN, _picks(architecture), next(self.parameters()))

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The strongest candidate of every edge, `none` among them."""
        strongest = {
            (edge.source, edge.target): index
            for source, rows in zip(PLAN.sources, weights, strict=True)
            for edge, index in zip(PLAN.edges_from(source), rows.argmax(dim=1).tolist(), strict=True)
        }
        return Architecture(tuple(strongest[edge] for edge in EDGES))

    def cut_out(self, architecture: Architecture) -> StagedNetwork:
        picks, cells = _picks(architecture), cast(Iterable[SupernetCell], self.cells)
        network = StagedNetwork(deepcopy(self.skeleton), [cell.cut_out(picks) for cell in cells])
        return network.to(next(self.parameters())).train(self.training)


def _picks(architecture: Architecture) -> list[str]:
    """The operation of each edge in the order of the plan."""
    operations = dict(zip(EDGES, architecture.picks, strict=True))
    return [OPERATIONS[operations[edge.source, edge.target]] for edge in PLAN.edges]
