"""The cell whose nodes hold the operations: the second plan of a supernet's cell.

A node mixes the states before it to one input (its edge gate) and the operations of that input to its
state (its operation gate). States are numbered, the inputs first, then the nodes.

Operations share a node's input and little else: each convolution ends in a normalisation and a ReLU of its
own, so there is no cheaper form of several than each by itself. What the fast form saves is around them: its
memory is channels_last, depthwise convolutions go past the slow paths of oneDNN's backward pass, and a
weighted sum takes fewer passes over memory.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from nas_cli.layers.cell import DiscreteCell
from nas_cli.layers.pointwise import pixels
from nas_cli.layers.sliced import FIXED, DepthwiseConv, make_operation
from nas_cli.supernet import Gate

Part = TypeVar("Part")

SEARCHED = replace(FIXED, norm=partial(nn.BatchNorm2d, affine=False))
PLAIN_SEARCHED = replace(SEARCHED, depthwise=partial(DepthwiseConv, plain=True))


@dataclass(frozen=True)
class NodePlan:
    """How many states a cell has, and the candidates of every node.

    A cell takes two gates a node, each of one row: the weights of the states before it, then those of its
    candidates.
    """

    num_inputs: int
    num_nodes: int
    candidates: tuple[str, ...]

    @property
    def nodes(self) -> range:
        """The numbers of the nodes' states."""
        return range(self.num_inputs, self.num_inputs + self.num_nodes)

    @property
    def gate_candidates(self) -> tuple[tuple[str, ...], ...]:
        """What the weights of each gate are of: numbers of states and names of operations in turn."""
        return tuple(
            names for node in self.nodes for names in (tuple(map(str, range(node))), self.candidates)
        )


class NodeCell(nn.Module):
    """A cell of mixed nodes, whose batch normalisations have no learned scale.

    With `plain`, every candidate is computed by its definition, and each sum term by term. Both forms have
    the same parameters and buffers under the same names.
    """

    def __init__(self, plan: NodePlan, channels: int, *, plain: bool) -> None:
        super().__init__()
        self.plan = plan
        self.plain = plain
        self.nodes = nn.ModuleList(MixedNode(plan.candidates, channels, plain=plain) for _ in plan.nodes)

    def forward(self, inputs: Sequence[Tensor], gates: Sequence[Gate]) -> list[Tensor]:
        """The states of the nodes."""
        states = [x if self.plain else x.contiguous(memory_format=torch.channels_last) for x in inputs]
        for node, edges, operations in zip(self.nodes, gates[0::2], gates[1::2], strict=True):
            states.append(node(states, edges, operations))
        return states[self.plan.num_inputs :]

    def cut_out(self, picks: Sequence[tuple[int, str]]) -> DiscreteCell:
        """The cell of one (state, operation) a node, with a copy of weights and batch statistics.

        A node of the candidate `none` is zero.
        """
        edges = [
            (source, node, self._copy(node, name))
            for node, (source, name) in zip(self.plan.nodes, picks, strict=True)
            if name != "none"
        ]
        return DiscreteCell(self.plan.num_inputs, self.plan.num_nodes, edges)

    def operation(self, node: int, candidate: int) -> nn.Module:
        """The module of one candidate; nodes are counted from zero here."""
        mixed = self.nodes[node]
        assert isinstance(mixed, MixedNode)
        return mixed.operations[candidate]

    def _copy(self, node: int, name: str) -> nn.Module:
        module = self.operation(node - self.plan.num_inputs, self.plan.candidates.index(name))
        operation = deepcopy(module).requires_grad_()
        operation.zero_grad()
        return operation


class MixedNode(nn.Module):
    """sum_k operations[k] * candidate_k(sum_p edges[p] * state_p), over what is active.

    The node is zero where no operation but `none` runs, and where it reads no state.
    """

    def __init__(self, candidates: Sequence[str], channels: int, *, plain: bool) -> None:
        super().__init__()
        self.candidates = tuple(candidates)
        kit = PLAIN_SEARCHED if plain else SEARCHED
        self.operations = nn.ModuleList(make_operation(name, channels, kit) for name in candidates)
        self.weighted_sum = _sum_by_terms if plain else _sum_in_one

    def forward(self, states: Sequence[Tensor], edges: Gate, operations: Gate) -> Tensor:
        sources = edges.active[0]
        running = [k for k in operations.active[0] if self.candidates[k] != "none"]
        if not (sources and running):
            return torch.zeros_like(states[0])
        edge_weights, weights = edges.weights[0].unbind(), operations.weights[0].unbind()
        x = self.weighted_sum([edge_weights[p] for p in sources], [states[p] for p in sources])
        values = [self.operations[k](x) for k in running]
        return self.weighted_sum([weights[k] for k in running], values)


def _sum_by_terms(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    terms = [weight * value for weight, value in zip(weights, values, strict=True)]
    return sum(terms[1:], terms[0])


def _sum_in_one(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """In the weights' precision: under autocast, values come in several."""
    summed: Tensor = _WeightedSum.apply(*weights, *(value.to(weights[0].dtype) for value in values))
    return summed


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class _WeightedSum(torch.autograd.Function):
    """n weights (numbers), then n values of one shape; the backward pass can be differentiated too."""

    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        weights, values = _halves(tensors)
        total = weights[0] * values[0]
        for weight, value in zip(weights[1:], values[1:], strict=True):
            total.addcmul_(value, weight)
        return total

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, values = _halves(ctx.saved_tensors)
        need_weights, need_values = _halves(ctx.needs_input_grad)
        flat = pixels(gradient).flatten()
        for_weights = [
            flat.dot(pixels(value).flatten()) if needed else None
            for value, needed in zip(values, need_weights, strict=True)
        ]
        for_values = [
            weight * gradient if needed else None for weight, needed in zip(weights, need_values, strict=True)
        ]
        return *for_weights, *for_values


def _halves(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    middle = len(parts) // 2
    return parts[:middle], parts[middle:]
