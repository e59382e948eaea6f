"""The cell: states joined by edges, as a supernet holds it and as a network has it.

States are numbered, the inputs first, then the nodes. In a supernet every edge mixes all candidates,
and what computes is the source state: it serves all edges that leave it. Preprocessing the inputs and
joining the nodes is the space's.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.layers.joint_state import push
from nas_cli.layers.operations import make_final_operation
from nas_cli.layers.partial_channels import PartialOperation, check_partial_channels
from nas_cli.layers.partial_state import PartialState
from nas_cli.layers.plain_state import PlainState
from nas_cli.layers.precision import outside_autocast
from nas_cli.layers.share import Share, total
from nas_cli.layers.shared_state import SharedState
from nas_cli.layers.statistics import Statistics
from nas_cli.supernet import Gate


@dataclass(frozen=True)
class Edge:
    """`stride` 2 leaves inputs only, in a cell that halves the size.

    `slot`: where a node has places for several operations, the one that this edge competes for.
    """

    source: int
    target: int
    stride: int
    slot: int = 0


@dataclass(frozen=True)
class CellPlan:
    """Which states a cell joins, and the candidates of every edge.

    Edges are ordered by source, then target, then slot.

    A cell takes one gate a source state, in the order of `sources`; its rows are `edges_from(source)`.
    """

    num_inputs: int
    num_nodes: int
    edges: tuple[Edge, ...]
    candidates: tuple[str, ...]
    pool_norm: bool

    def edges_from(self, state: int) -> tuple[Edge, ...]:
        return tuple(edge for edge in self.edges if edge.source == state)

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(edge.source for edge in self.edges))

    def targets_of(self, state: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(edge.target for edge in self.edges_from(state)))

    @property
    def ready_together(self) -> tuple[tuple[int, ...], ...]:
        """The sources in order; the inputs side by side where their edges are alike."""
        inputs = tuple(source for source in self.sources if source < self.num_inputs)
        ends = {
            tuple((edge.target, edge.slot, edge.stride) for edge in self.edges_from(source))
            for source in inputs
        }
        first = (inputs,) if len(ends) == 1 else tuple((source,) for source in inputs)
        return first + tuple((source,) for source in self.sources if source >= self.num_inputs)

    @property
    def row_groups(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each slot of each node the rows (gate, row) that arrive there."""
        arriving: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for gate, source in enumerate(self.sources):
            for row, edge in enumerate(self.edges_from(source)):
                arriving.setdefault((edge.target, edge.slot), []).append((gate, row))
        return tuple(tuple(arriving[place]) for place in sorted(arriving))

    def row_names(self, kind: str) -> tuple[tuple[str, ...], ...]:
        """`normal.0-2` for the edge of that kind of cell from state 0 to state 2; slots after 0 are named."""
        return tuple(
            tuple(
                f"{kind}.{edge.source}-{edge.target}" + (f" slot {edge.slot}" if edge.slot else "")
                for edge in self.edges_from(source)
            )
            for source in self.sources
        )

    @property
    def stride(self) -> int:
        """The inputs are this much larger than the nodes."""
        return max(edge.stride for edge in self.edges)


class DiscreteCell(nn.Module):
    """One operation an edge (source, target, operation); `stride` sizes a node that no edge reaches.

    `outputs`: the states that it gives, all nodes where that is None.
    """

    def __init__(
        self,
        num_inputs: int,
        num_nodes: int,
        edges: Sequence[tuple[int, int, nn.Module]],
        *,
        stride: int = 1,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.num_nodes = num_nodes
        self.stride = stride
        nodes = range(num_inputs, num_inputs + num_nodes)
        self.outputs = tuple(nodes if outputs is None else outputs)
        self.ends = tuple((source, target) for source, target, _ in edges)
        self.operations = nn.ModuleList(operation for _, _, operation in edges)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The states that are its outputs."""
        states = list(inputs)
        for target in range(self.num_inputs, self.num_inputs + self.num_nodes):
            values = [
                operation(states[source])
                for (source, end), operation in zip(self.ends, self.operations, strict=True)
                if end == target
            ]
            states.append(sum(values[1:], values[0]) if values else _zeros(inputs[0], self.stride))
        return [states[output] for output in self.outputs]


class SupernetCell(nn.Module):
    """A cell of mixed edges, whose batch normalisations have no learned scale.

    Both forms have the same parameters and buffers under the same names. Where the candidates see one in
    `partial_channels` of the channels, the rest passes by, weighed by the sum of the edge's gate.
    """

    def __init__(self, plan: CellPlan, channels: int, *, plain: bool, partial_channels: int) -> None:
        super().__init__()
        check_partial_channels(channels, partial_channels)
        self.plan = plan
        self.channels = channels
        self.partial_channels = partial_channels
        state_kind = PlainState if plain else SharedState if partial_channels == 1 else PartialState
        self.states = nn.ModuleList(
            state_kind(
                plan.candidates,
                channels,
                edges[0].stride,
                len(edges),
                pool_norm=plan.pool_norm,
                partial_channels=partial_channels,
            )
            for edges in map(plan.edges_from, plan.sources)
        )

    def forward(self, inputs: Sequence[Tensor], gates: Sequence[Gate]) -> list[Tensor]:
        """The states of the nodes, each sum over edges and k of gate[edge, k] * candidate_k(state)."""
        plan, statistics = self.plan, Statistics()
        states = list(inputs)
        arriving: list[list[Share]] = [[] for _ in range(plan.num_inputs + plan.num_nodes)]
        gate_of = dict(zip(plan.sources, gates, strict=True))
        for group in plan.ready_together:
            while len(states) <= group[-1]:
                states.append(self._node(arriving[len(states)], inputs[0]))
            reading = [states[source] for source in group]
            pushed = self._push(group, reading, [gate_of[source] for source in group], statistics)
            for source, shares in zip(group, pushed, strict=True):
                for edge, share in zip(plan.edges_from(source), shares, strict=True):
                    arriving[edge.target].append(share)
        states += [self._node(shares, inputs[0]) for shares in arriving[len(states) :]]
        statistics.track()
        return states[plan.num_inputs :]

    def _push(
        self,
        sources: Sequence[int],
        states: Sequence[Tensor],
        gates: Sequence[Gate],
        statistics: Statistics,
    ) -> list[list[Share]]:
        """What each edge of each of the states brings to its target."""
        modules = [self.states[self.plan.sources.index(source)] for source in sources]
        shared = [module for module in modules if type(module) is SharedState]
        if shared:
            return push(shared, states, gates, len(self.plan.targets_of(sources[0])), statistics)
        return [
            module(state, gate, statistics)
            for module, state, gate in zip(modules, states, gates, strict=True)
        ]

    def _node(self, arrived: Sequence[Share], like: Tensor) -> Tensor:
        with outside_autocast(like):  # products are in the precision of what arrived
            node = total(arrived, self.partial_channels)
        return _zeros(like, self.plan.stride) if node is None else node

    def cut_out(self, picks: Sequence[str | None], outputs: Sequence[int] | None = None) -> DiscreteCell:
        """The cell of one pick an edge, in the plan's order, with a copy of weights and batch statistics.

        None, or the candidate `none` where nothing passes by it, leaves the edge out. `outputs`: see
        DiscreteCell.
        """
        plan = self.plan
        left_out = (None, "none") if self.partial_channels == 1 else (None,)
        edges = []
        for edge, pick in zip(plan.edges, picks, strict=True):
            if pick is not None and pick not in left_out:
                edges.append((edge.source, edge.target, self._copy(edge, pick)))
        return DiscreteCell(plan.num_inputs, plan.num_nodes, edges, stride=plan.stride, outputs=outputs)

    def operation(self, gate: int, row: int, candidate: int) -> nn.Module:
        """The module of one candidate of one edge: row `row` of the cell's gate `gate`."""
        state = self.states[gate]
        assert isinstance(state, PlainState)
        return state.operation(row, candidate)

    def final_operation(self, gate: int, row: int, candidate: int) -> nn.Module:
        """What a final network has there: a new module, with learned scales and without norms after pools."""
        edge = self.plan.edges_from(self.plan.sources[gate])[row]
        return make_final_operation(self.plan.candidates[candidate], self.channels, edge.stride)

    def _copy(self, edge: Edge, pick: str) -> nn.Module:
        plan = self.plan
        gate, row = plan.sources.index(edge.source), plan.edges_from(edge.source).index(edge)
        operation = deepcopy(self.operation(gate, row, plan.candidates.index(pick))).requires_grad_()
        operation.zero_grad()
        if self.partial_channels == 1:
            return operation
        return PartialOperation(operation, self.partial_channels, edge.stride)


def make_cell(plan: CellPlan, channels: int, *, plain: bool, partial_channels: int = 1) -> SupernetCell:
    """`plain`: every candidate by its definition, one at a time; else what edges share is computed once.

    The candidates see one in `partial_channels` of the channels (arXiv:1907.05737). Raises UnsupportedError
    where the channels have not that many equal parts.
    """
    return SupernetCell(plan, channels, plain=plain, partial_channels=partial_channels)


def _zeros(state: Tensor, stride: int) -> Tensor:
    return torch.zeros_like(state[:, :, ::stride, ::stride])
