"""The cells of DARTS (Liu, Simonyan and Yang 2019, arXiv:1806.09055): a normal cell and a reduction cell."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, cast

from pydantic import Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice, GenotypeText
from nas_cli.data import ImageInfo
from nas_cli.errors import GenotypeError
from nas_cli.genotype_text import Pair, read_cells_text
from nas_cli.layers.cell import CellPlan, DiscreteCell, Edge, SupernetCell, make_cell
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.operations import make_final_operation
from nas_cli.layers.skeleton import Place, Skeleton, SkeletonNetwork, make_auxiliary_head, one_hot_gates
from nas_cli.layers.stem import check_image_size
from nas_cli.space import CellGraph, SearchSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
OPERATIONS = CANDIDATES[1:]
KINDS = ("normal", "reduction")
NUM_INPUTS = 2

Wiring = dict[tuple[int, int], str]
"""A cell: the operation of each edge (source state, target state). States 0 and 1 are the cell's inputs."""


class DartsSpace(SearchSpace):
    """Each node of a cell sums two operations on two earlier states; the cell joins all its nodes.

    A node's choices are named after its state (the first node is state 2), as the published cells count:
    `normal.node2.inputs` is a pair of states such as "0,1", `normal.node2.first` the operation on the
    first of them, `normal.node2.second` the one on the second.

    No two spellings are merged: a pair of inputs has one order and every node is joined, so only
    cells that differ in the order of independent nodes are the same function, with permuted channels.

    Raises UnsupportedError for images too small for two reductions.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        num_cells: Annotated[int, Field(ge=3)] = 5,
        channels: Annotated[int, Field(ge=2, multiple_of=2)] = 8,
        num_nodes: Annotated[int, Field(ge=1, le=8)] = 4,
    ) -> None:
        check_image_size(info, num_reductions=2)
        self.info = info
        self.num_cells = num_cells
        self.channels = channels
        self.num_nodes = num_nodes
        self.nodes = range(NUM_INPUTS, NUM_INPUTS + num_nodes)
        self.plans = {kind: _plan(kind, self.nodes) for kind in KINDS}
        self.choices = tuple(
            choice for kind in KINDS for node in self.nodes for choice in _node_choices(kind, node)
        )

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        """The network of the paper's evaluation: affine norms, none after pools, drop path."""
        skeleton = self.make_skeleton(affine=True)
        wirings = {kind: self.wiring(architecture, kind) for kind in KINDS}
        cells = [self._discrete_cell(wirings[place.kind], place) for place in skeleton.places]
        head = make_auxiliary_head(self.info, skeleton) if auxiliary_head else None
        return SkeletonNetwork(skeleton, cells, head)

    def build_supernet(self, options: SupernetOptions) -> "DartsSupernet":
        return DartsSupernet(self, options)

    def make_skeleton(self, *, affine: bool) -> Skeleton:
        return Skeleton(
            self.info,
            channels=self.channels,
            num_cells=self.num_cells,
            num_joined=dict.fromkeys(KINDS, self.num_nodes),
            affine=affine,
        )

    def _discrete_cell(self, wiring: Wiring, place: Place) -> DiscreteCell:
        edges = [
            (source, target, make_final_operation(name, place.channels, _stride(place.kind, source)))
            for (source, target), name in wiring.items()
        ]
        return DiscreteCell(NUM_INPUTS, self.num_nodes, edges)

    def wiring(self, architecture: Architecture, kind: str) -> Wiring:
        options = self.options_of(architecture)
        wiring = {}
        for node in self.nodes:
            sources = str(options[f"{kind}.node{node}.inputs"]).split(",")
            for source, place in zip(sources, ("first", "second"), strict=True):
                wiring[int(source), node] = str(options[f"{kind}.node{node}.{place}"])
        return wiring

    def architecture_from(self, wirings: Mapping[str, Wiring]) -> Architecture:
        """The inverse of `wiring`: every node has two edges, in any order."""
        options = {}
        for kind, node in itertools.product(KINDS, self.nodes):
            first, second = sorted(source for source, target in wirings[kind] if target == node)
            options[f"{kind}.node{node}.inputs"] = f"{first},{second}"
            options[f"{kind}.node{node}.first"] = wirings[kind][first, node]
            options[f"{kind}.node{node}.second"] = wirings[kind][second, node]
        return self.architecture_of(options)

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        nodes = tuple(str(index) for index in range(self.num_nodes))
        names = ("c_{k-2}", "c_{k-1}", *nodes)
        graphs = {}
        for kind in KINDS:
            wiring = self.wiring(architecture, kind)
            edges = tuple((names[source], names[target], label) for (source, target), label in wiring.items())
            graphs[kind] = CellGraph(names[:NUM_INPUTS], edges, nodes)
        return graphs

    def spell(self, architecture: Architecture) -> str:
        """DARTS' text form, as its repository prints it."""
        cells = (self.wiring(architecture, kind) for kind in KINDS)
        normal, reduce = ([(name, source) for (source, _), name in cell.items()] for cell in cells)
        joined = f"range({self.nodes.start}, {self.nodes.stop})"
        return f"Genotype(normal={normal}, normal_concat={joined}, reduce={reduce}, reduce_concat={joined})"

    def parse(self, text: GenotypeText) -> Architecture:
        """Read DARTS' text form; the two inputs of a node may come in any order."""
        read = read_cells_text(text.text)
        self._check_joined("normal_concat", read.normal_concat)
        self._check_joined("reduce_concat", read.reduce_concat)
        return self.architecture_from(
            {
                "normal": self._read_cell("normal", read.normal),
                "reduction": self._read_cell("reduce", read.reduce),
            }
        )

    def _check_joined(self, name: str, states: Sequence[int]) -> None:
        if sorted(states) != list(self.nodes):
            raise GenotypeError(
                f"{name} joins the states {list(states)}; a cell of this space joins all its nodes, "
                f"{list(self.nodes)} with space.num_nodes={self.num_nodes}."
            )

    def _read_cell(self, name: str, pairs: Sequence[Pair]) -> Wiring:
        if len(pairs) != 2 * self.num_nodes:
            raise GenotypeError(
                f"{name} has {len(pairs)} pairs (operation, state); with two a node and "
                f"space.num_nodes={self.num_nodes} it must have {2 * self.num_nodes}. "
                "Set space.num_nodes to the number of nodes of the genotype."
            )
        wiring: Wiring = {}
        for position, (operation, source) in enumerate(pairs):
            node = self.nodes[position // 2]
            _check_edge(name, node, operation, source)
            if (source, node) in wiring:
                raise GenotypeError(
                    f"{name}: both operations of state {node} read state {source}; "
                    "in this space a node reads two different states."
                )
            wiring[source, node] = operation
        return wiring


def _check_edge(name: str, node: int, operation: str, source: int) -> None:
    if operation not in OPERATIONS:
        raise GenotypeError(
            f"{name}: there is no operation {operation!r} in this space; it has {', '.join(OPERATIONS)}."
        )
    if not 0 <= source < node:
        raise GenotypeError(
            f"{name}: state {node} cannot read state {source}, only the states 0 to {node - 1} before it."
        )


def _plan(kind: str, nodes: range) -> CellPlan:
    edges = tuple(
        Edge(source, target, _stride(kind, source))
        for source in range(nodes.stop)
        for target in nodes
        if source < target
    )
    return CellPlan(NUM_INPUTS, len(nodes), edges, CANDIDATES, pool_norm=True)


def _stride(kind: str, source: int) -> int:
    return 2 if kind == "reduction" and source < NUM_INPUTS else 1


def _node_choices(kind: str, node: int) -> tuple[Choice, Choice, Choice]:
    pairs = tuple(f"{first},{second}" for first, second in itertools.combinations(range(node), 2))
    name = f"{kind}.node{node}"
    return (
        Choice(f"{name}.inputs", pairs),
        Choice(f"{name}.first", OPERATIONS),
        Choice(f"{name}.second", OPERATIONS),
    )


class DartsSupernet(Supernet):
    """All cells of the space with shared weights: the paper's search network, norms without scale and shift.

    Gates: one a source state, first those of the normal cells, then those of the reduction cells; all
    cells of one kind share them.
    """

    def __init__(self, space: DartsSpace, options: SupernetOptions) -> None:
        super().__init__()
        options.form_of("side_by_side")
        self.space = space
        self.checkpoint = options.checkpoint
        self.skeleton = space.make_skeleton(affine=False)
        self.cells = nn.ModuleList(
            make_cell(
                space.plans[place.kind],
                place.channels,
                plain=options.plain,
                partial_channels=options.partial_channels,
            )
            for place in self.skeleton.places
        )
        sources = [(plan, source) for plan in space.plans.values() for source in plan.sources]
        self.gate_shapes = tuple((len(plan.edges_from(source)), len(CANDIDATES)) for plan, source in sources)
        self.candidates = (CANDIDATES,) * len(sources)

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        steps = [
            partial(step_of(cell, checkpointed=self.checkpoint), gates=gates[self._gates_of_kind(place.kind)])
            for place, cell in zip(self.skeleton.places, self.cells, strict=True)
        ]
        logits: Tensor
        logits, _ = self.skeleton(images, steps)
        return logits

    @property
    def row_groups(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        return tuple(
            tuple((self._gates_of_kind(kind).start + gate, row) for gate, row in group)
            for kind in KINDS
            for group in self.space.plans[kind].row_groups
        )

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple(names for kind in KINDS for names in self.space.plans[kind].row_names(kind))

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        cells, source = self._under(gate)
        return [cell.operation(source, row, candidate) for cell in cells]

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        cells, source = self._under(gate)
        return [cell.final_operation(source, row, candidate) for cell in cells]

    def _under(self, gate: int) -> tuple[list[SupernetCell], int]:
        """The cells that share a gate, and its place among the gates of each."""
        kind, source = divmod(gate, len(self.space.plans[KINDS[0]].sources))
        cells = zip(self.skeleton.places, cast(Iterable[SupernetCell], self.cells), strict=True)
        return [cell for place, cell in cells if place.kind == KINDS[kind]], source

    def _gates_of_kind(self, kind: str) -> slice:
        num_sources = len(self.space.plans[kind].sources)
        start = KINDS.index(kind) * num_sources
        return slice(start, start + num_sources)

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        like = next(self.parameters())
        plans = self.space.plans
        return [
            gate
            for kind in KINDS
            for gate in one_hot_gates(plans[kind], self._picks(architecture, kind), like)
        ]

    def _picks(self, architecture: Architecture, kind: str) -> list[str | None]:
        wiring = self.space.wiring(architecture, kind)
        return [wiring.get((edge.source, edge.target)) for edge in self.space.plans[kind].edges]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """Section 2.4: a node keeps its two edges with the strongest operation other than `none`."""
        return self.space.architecture_from(
            {kind: _strongest(self.space.plans[kind], weights[self._gates_of_kind(kind)]) for kind in KINDS}
        )

    def cut_out(self, architecture: Architecture) -> SkeletonNetwork:
        picks = {kind: self._picks(architecture, kind) for kind in KINDS}
        typed = cast(Iterable[SupernetCell], self.cells)
        cells = [
            cell.cut_out(picks[place.kind]) for place, cell in zip(self.skeleton.places, typed, strict=True)
        ]
        network = SkeletonNetwork(deepcopy(self.skeleton), cells)
        return network.to(next(self.parameters())).train(self.training)


def _strongest(plan: CellPlan, weights: Sequence[Tensor]) -> Wiring:
    """The two strongest edges of each node with their strongest operations; a tie goes to the earlier one."""
    strength: dict[tuple[int, int], float] = {}
    operation: Wiring = {}
    for source, rows in zip(plan.sources, weights, strict=True):
        values, indices = rows.detach()[:, 1:].max(dim=1)
        for edge, value, index in zip(
            plan.edges_from(source), values.tolist(), indices.tolist(), strict=True
        ):
            strength[edge.source, edge.target] = value
            operation[edge.source, edge.target] = OPERATIONS[index]
    nodes = sorted({edge.target for edge in plan.edges})
    kept = [end for node in nodes for end in _two_strongest(strength, node)]
    return {end: operation[end] for end in kept}


def _two_strongest(strength: Mapping[tuple[int, int], float], node: int) -> list[tuple[int, int]]:
    edges = sorted(end for end in strength if end[1] == node)
    return sorted(edges, key=lambda end: -strength[end])[:2]
