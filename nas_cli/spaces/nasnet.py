"""NASNet's cells (Zoph, Vasudevan, Shlens and Le 2018, arXiv:1707.07012): two cells of blocks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, cast

from pydantic import Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.layers.cell import CellPlan, DiscreteCell, Edge, SupernetCell, make_cell
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.operations import make_final_operation
from nas_cli.layers.skeleton import Place, Skeleton, SkeletonNetwork, make_auxiliary_head, one_hot_gates
from nas_cli.layers.stem import check_image_size
from nas_cli.space import CellGraph, SearchSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

# In the order of the paper's list (section 3).
OPERATIONS = (
    "skip_connect",
    "bottleneck_conv_1x3_3x1",
    "bottleneck_conv_1x7_7x1",
    "bottleneck_dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "nor_conv_1x1",
    "bottleneck_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
JOIN = ("join",)
KINDS = ("normal", "reduction")
HALVES = ("first", "second")
NUM_INPUTS = 2

Half = tuple[int, str]
"""The state that it reads, and the operation on it. States 0 and 1 are the cell's inputs, 2 is block 0."""
Block = tuple[Half, Half]
States = tuple[Annotated[int, Field(ge=0)], ...]


class NasnetSpace(SearchSpace):
    """Each block of a cell sums two operations on two earlier states; the cell joins what no block reads.

    A block's choices are `normal.block0.first_input` (a state: 0 is the cell before the last, 1 the last one,
    2 is block 0, and so on), `.first_operation`, `.second_input` and `.second_operation`. Both inputs may
    be one state, and the halves of a block may be swapped: `canonical` puts the earlier state first.

    `normal_also_joins` and `reduction_also_joins` name states that are joined although blocks read them. The
    paper has no such states, and by default there are none, but the authors' code of both published cells
    has (tensorflow/models, slim/nets/nasnet/nasnet_utils.py; tensorflow/tpu, amoeba_net/model_specs.py).

    Deviations: a block always adds, where the paper also lets it concatenate, as no published cell does;
    convolutions that are not separable have the bottleneck of the authors' code (`BottleneckConv`). What is
    around the cells is DARTS' (`Skeleton`): it projects both inputs of the first cell, strides an
    identity by two shifted convolutions, has the auxiliary head after the second reduction cell, and drops
    paths at one rate in all cells, where the authors' code raises it with the depth.

    Raises UnsupportedError for images too small for two reductions.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        num_cells: Annotated[int, Field(ge=3)] = 5,
        channels: Annotated[int, Field(ge=2, multiple_of=2)] = 8,
        num_blocks: Annotated[int, Field(ge=1, le=8)] = 5,
        normal_also_joins: States = (),
        reduction_also_joins: States = (),
    ) -> None:
        check_image_size(info, num_reductions=2)
        self.info = info
        self.num_cells = num_cells
        self.channels = channels
        self.nodes = range(NUM_INPUTS, NUM_INPUTS + num_blocks)
        self.also_joined = {"normal": normal_also_joins, "reduction": reduction_also_joins}
        self._check_also_joined()
        self.plans = {kind: _plan(kind, self.nodes) for kind in KINDS}
        self.choices = tuple(
            choice for kind in KINDS for node in self.nodes for choice in _block_choices(kind, node)
        )

    def _check_also_joined(self) -> None:
        for kind, first, why in (
            ("normal", 0, "the cell has no others"),
            ("reduction", NUM_INPUTS, "the cell has no others after its inputs, which are larger"),
        ):
            allowed, given = range(first, self.nodes.stop), self.also_joined[kind]
            if not set(given) <= set(allowed):
                raise ConfigError(
                    f"space.{kind}_also_joins={list(given)}: must be states from {allowed.start} to "
                    f"{allowed.stop - 1} ({why} with space.num_blocks={len(self.nodes)})."
                )

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        """The network as published: affine norms, none after pools, drop path."""
        joined = {kind: self.joined(architecture, kind) for kind in KINDS}
        skeleton = self.make_skeleton({kind: len(states) for kind, states in joined.items()}, affine=True)
        cells = [
            self._discrete_cell(self.blocks(architecture, place.kind), place, joined[place.kind])
            for place in skeleton.places
        ]
        head = make_auxiliary_head(self.info, skeleton) if auxiliary_head else None
        return SkeletonNetwork(skeleton, cells, head)

    def build_supernet(self, options: SupernetOptions) -> "NasnetSupernet":
        return NasnetSupernet(self, options)

    def make_skeleton(self, num_joined: Mapping[str, int], *, affine: bool) -> Skeleton:
        return Skeleton(
            self.info, channels=self.channels, num_cells=self.num_cells, num_joined=num_joined, affine=affine
        )

    def _discrete_cell(self, blocks: Sequence[Block], place: Place, joined: Sequence[int]) -> DiscreteCell:
        edges = [
            (source, node, make_final_operation(name, place.channels, _stride(place.kind, source)))
            for node, block in zip(self.nodes, blocks, strict=True)
            for source, name in block
        ]
        return DiscreteCell(NUM_INPUTS, len(self.nodes), edges, outputs=joined)

    def blocks(self, architecture: Architecture, kind: str) -> list[Block]:
        """The blocks of a cell, the halves of each in their canonical order."""
        options = self.options_of(architecture)
        return [_read_block(options, name) for name in self._block_names(kind)]

    def joined(self, architecture: Architecture, kind: str) -> tuple[int, ...]:
        """The states that a cell joins, in order."""
        read = {source for block in self.blocks(architecture, kind) for source, _ in block}
        return tuple(sorted({*self.nodes} - read | {*self.also_joined[kind]}))

    def joined_inputs(self, kind: str) -> tuple[int, ...]:
        """The inputs among the states that every cell of the kind joins."""
        return tuple(sorted(state for state in {*self.also_joined[kind]} if state < NUM_INPUTS))

    def _block_names(self, kind: str) -> list[str]:
        return [f"{kind}.block{index}" for index in range(len(self.nodes))]

    def architecture_from(self, cells: Mapping[str, Sequence[Block]]) -> Architecture:
        """The inverse of `blocks`, whatever the order of the halves."""
        options: dict[str, str | int] = {}
        for kind in KINDS:
            for name, block in zip(self._block_names(kind), cells[kind], strict=True):
                for half, (source, operation) in zip(HALVES, sorted(block, key=_half_order), strict=True):
                    options[f"{name}.{half}_input"] = source
                    options[f"{name}.{half}_operation"] = operation
        return self.architecture_of(options)

    def canonical(self, architecture: Architecture) -> Architecture:
        return self.architecture_from({kind: self.blocks(architecture, kind) for kind in KINDS})

    def spell(self, architecture: Architecture) -> str:
        """Both cells, block for block, a half as operation(state)."""
        return "; ".join(f"{kind}: {_spell(self.blocks(architecture, kind))}" for kind in KINDS)

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        names = ("c_{k-2}", "c_{k-1}", *(str(index) for index in range(len(self.nodes))))
        graphs = {}
        for kind in KINDS:
            edges = tuple(
                (names[source], names[node], label)
                for node, block in zip(self.nodes, self.blocks(architecture, kind), strict=True)
                for source, label in block
            )
            outputs = tuple(names[state] for state in self.joined(architecture, kind))
            graphs[kind] = CellGraph(names[:NUM_INPUTS], edges, outputs)
        return graphs


def _half_order(half: Half) -> tuple[int, int]:
    return half[0], OPERATIONS.index(half[1])


def _read_block(options: Mapping[str, str | int], name: str) -> Block:
    first, second = sorted(
        ((int(options[f"{name}.{half}_input"]), str(options[f"{name}.{half}_operation"])) for half in HALVES),
        key=_half_order,
    )
    return first, second


def _spell(blocks: Sequence[Block]) -> str:
    return ", ".join(" + ".join(f"{name}({source})" for source, name in block) for block in blocks)


def _plan(kind: str, nodes: range) -> CellPlan:
    edges = tuple(
        Edge(source, target, _stride(kind, source), slot)
        for source in range(nodes.stop)
        for target in nodes
        if source < target
        for slot in range(len(HALVES))
    )
    return CellPlan(NUM_INPUTS, len(nodes), edges, OPERATIONS, pool_norm=False)


def _stride(kind: str, source: int) -> int:
    return 2 if kind == "reduction" and source < NUM_INPUTS else 1


def _block_choices(kind: str, node: int) -> Iterable[Choice]:
    for half in HALVES:
        name = f"{kind}.block{node - NUM_INPUTS}.{half}"
        yield Choice(f"{name}_input", tuple(range(node)))
        yield Choice(f"{name}_operation", OPERATIONS)


class NasnetSupernet(Supernet):
    """All cells of the space with shared weights; their norms have no scale and shift, as in DARTS.

    Gates: one a source state, whose rows are its edges to both halves of every later block, then one of a row
    a block that scales the block in what the cell joins (candidate `join`); first those of the
    normal cells, then those of the reduction cells. The halves of a block have weights of their own: an
    architecture runs with the first half's where its canonical spelling has it first. All blocks are
    joined under soft gates, those that no block reads under the gates of an architecture.
    """

    def __init__(self, space: NasnetSpace, options: SupernetOptions) -> None:
        super().__init__()
        options.form_of("side_by_side")
        self.space = space
        self.checkpoint = options.checkpoint
        num_joined = {kind: len(space.joined_inputs(kind)) + len(space.nodes) for kind in KINDS}
        self.skeleton = space.make_skeleton(num_joined, affine=False)
        self.cells = nn.ModuleList(
            make_cell(
                space.plans[place.kind],
                place.channels,
                plain=options.plain,
                partial_channels=options.partial_channels,
            )
            for place in self.skeleton.places
        )
        self.gate_shapes = tuple(shape for plan in space.plans.values() for shape in _gate_shapes(plan))
        self.candidates = tuple(
            names for plan in space.plans.values() for names in (*(OPERATIONS,) * len(plan.sources), JOIN)
        )

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        steps = [
            partial(
                _joined_states,
                cell=step_of(cell, checkpointed=self.checkpoint),
                joined_inputs=self.space.joined_inputs(place.kind),
                gates=gates[self._gates_of_kind(place.kind)],
            )
            for place, cell in zip(self.skeleton.places, self.cells, strict=True)
        ]
        logits: Tensor
        logits, _ = self.skeleton(images, steps)
        return logits

    @property
    def row_groups(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The rows of one half of a block are one group, each row of the join gates is one by itself."""
        groups: list[tuple[tuple[int, int], ...]] = []
        for kind in KINDS:
            plan, first = self.space.plans[kind], self._gates_of_kind(kind).start
            groups += [tuple((first + gate, row) for gate, row in group) for group in plan.row_groups]
            groups += [((first + len(plan.sources), row),) for row in range(plan.num_nodes)]
        return tuple(groups)

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        """The rows of a kind's last gate are the nodes that may be joined."""
        names: list[tuple[str, ...]] = []
        for kind in KINDS:
            names += self.space.plans[kind].row_names(kind)
            names.append(tuple(f"{kind}.join {node}" for node in self.space.nodes))
        return tuple(names)

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        """Of an operation one in each cell of its kind; joining takes none."""
        cells, source = self._under(gate)
        return [cell.operation(source, row, candidate) for cell in cells]

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        cells, source = self._under(gate)
        return [cell.final_operation(source, row, candidate) for cell in cells]

    def _under(self, gate: int) -> tuple[list[SupernetCell], int]:
        """The cells that share a gate of operations, none for that of the join; its place in each."""
        kind, source = divmod(gate, len(self.gate_shapes) // len(KINDS))
        if self.candidates[gate] == JOIN:
            return [], source
        cells = zip(self.skeleton.places, cast(Iterable[SupernetCell], self.cells), strict=True)
        return [cell for place, cell in cells if place.kind == KINDS[kind]], source

    def _gates_of_kind(self, kind: str) -> slice:
        """The gates of the sources and, the last one, of the join."""
        count = len(self.gate_shapes) // len(KINDS)
        start = KINDS.index(kind) * count
        return slice(start, start + count)

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        like, gates = next(self.parameters()), []
        for kind in KINDS:
            gates += one_hot_gates(self.space.plans[kind], self._picks(architecture, kind), like)
            joined = self.space.joined(architecture, kind)
            gates.append(Gate.one_hot([0 if node in joined else None for node in self.space.nodes], 1, like))
        return gates

    def _picks(self, architecture: Architecture, kind: str) -> list[str | None]:
        """The operation of each edge of the plan, None where the half reads another state."""
        halves = {
            (node, slot): half
            for node, block in zip(self.space.nodes, self.space.blocks(architecture, kind), strict=True)
            for slot, half in enumerate(block)
        }
        chosen = [(edge, *halves[edge.target, edge.slot]) for edge in self.space.plans[kind].edges]
        return [operation if edge.source == source else None for edge, source, operation in chosen]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """Each half of a block takes its strongest operation on any state; the join gates are not read."""
        return self.space.architecture_from(
            {kind: _strongest(self.space.plans[kind], weights[self._gates_of_kind(kind)]) for kind in KINDS}
        )

    def cut_out(self, architecture: Architecture) -> SkeletonNetwork:
        """What reads a cell reads only the states that the architecture joins."""
        picks = {kind: self._picks(architecture, kind) for kind in KINDS}
        joined = {kind: self.space.joined(architecture, kind) for kind in KINDS}
        typed = cast(Iterable[SupernetCell], self.cells)
        cells = [
            cell.cut_out(picks[place.kind], joined[place.kind])
            for place, cell in zip(self.skeleton.places, typed, strict=True)
        ]
        kept = {kind: self._positions(joined[kind], kind) for kind in KINDS}
        network = SkeletonNetwork(self.skeleton.narrowed(kept), cells)
        return network.to(next(self.parameters())).train(self.training)

    def _positions(self, joined: Sequence[int], kind: str) -> list[int]:
        """Where the joined states stand among all that the supernet's cell joins."""
        everything = [*self.space.joined_inputs(kind), *self.space.nodes]
        return [everything.index(state) for state in joined]


def _gate_shapes(plan: CellPlan) -> list[tuple[int, int]]:
    mixing = [(len(plan.edges_from(source)), len(plan.candidates)) for source in plan.sources]
    return [*mixing, (plan.num_nodes, len(JOIN))]


def _joined_states(
    inputs: list[Tensor],
    *,
    cell: Callable[..., object],
    joined_inputs: Sequence[int],
    gates: Sequence[Gate],
) -> list[Tensor]:
    """The inputs that the cell joins, and all its blocks, each scaled by its row of the last gate."""
    *mixing, join = gates
    nodes = cast(list[Tensor], cell(inputs, mixing))
    scales = join.weights.unbind()
    scaled = [
        scale * node if active else node.new_zeros(()).expand_as(node)
        for node, scale, active in zip(nodes, scales, join.active, strict=True)
    ]
    return [*(inputs[state] for state in joined_inputs), *scaled]


def _strongest(plan: CellPlan, weights: Sequence[Tensor]) -> list[Block]:
    """Of each half the operation and the state of the largest weight; a tie goes to the earlier state."""
    strongest: dict[tuple[int, int], tuple[float, Half]] = {}
    for source, rows in zip(plan.sources, weights[:-1], strict=True):
        values, indices = rows.detach().max(dim=1)
        found = zip(plan.edges_from(source), values.tolist(), indices.tolist(), strict=True)
        for edge, value, index in found:
            place = (edge.target, edge.slot)
            if place not in strongest or value > strongest[place][0]:
                strongest[place] = (value, (source, OPERATIONS[index]))
    nodes = sorted({edge.target for edge in plan.edges})
    return [(strongest[node, 0][1], strongest[node, 1][1]) for node in nodes]
