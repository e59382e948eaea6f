"""All edges that leave one state, computed with what they share: the fast form.

Rectifying, pooling and splitting into phases happen once a state. A candidate ends as a product of
images with a small matrix that has its batch normalisation and its gate in it, or as a share of the
pooled images; the target sums them. The parameters are those of the plain form.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers import blocks
from nas_cli.layers.depthwise_functions import Geometry
from nas_cli.layers.folded_norm import fold, fold_points
from nas_cli.layers.forms import Forms, splits
from nas_cli.layers.linear_mix import images_of_targets, mix_linearly
from nas_cli.layers.measured_convs import (
    Measured,
    Reading,
    convolve_and_measure,
    rectify_convolve_and_measure,
)
from nas_cli.layers.moments import Moments
from nas_cli.layers.operations import (
    FactorizedReduce,
    Pool,
    ReluConvBN,
    SeparableConv,
    SeparableStack,
    Zero,
)
from nas_cli.layers.plain_state import PlainState
from nas_cli.layers.pooling import pooled
from nas_cli.layers.precision import outside_autocast
from nas_cli.layers.share import Product, Share
from nas_cli.layers.statistics import Statistics, running_statistics
from nas_cli.supernet import Gate


@dataclass(frozen=True, slots=True)
class Group:
    """One candidate, on all edges where it runs."""

    operations: Sequence[nn.Module]
    gates: list[Tensor]
    shares: list[Share]


class SharedState(PlainState):
    """PlainState's function and parameters; less work."""

    plain = False

    def forward(self, state: Tensor, gate: Gate, statistics: Statistics) -> list[Share]:
        with outside_autocast(state):
            shares = [Share() for _ in gate.active]
            groups = self.groups(gate, shares, range(len(self.candidates)))
            push_edges([Outgoing(Forms.of(state, statistics), groups, len(shares))])
            return shares

    def groups(self, gate: Gate, shares: list[Share], candidates: Iterable[int]) -> list[Group]:
        """The candidates among these that run on some edge."""
        weights = [row.unbind() for row in gate.weights.unbind()]
        groups = []
        for k in candidates:
            rows = [row for row, active in enumerate(gate.active) if k in active]
            if rows:
                operations = [self.operation(row, k) for row in rows]
                groups.append(Group(operations, [weights[r][k] for r in rows], [shares[r] for r in rows]))
        return groups


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What runs on the edges, so many, that leave one state."""

    forms: Forms
    groups: list[Group]
    num_edges: int

    @property
    def stacks(self) -> list[Group]:
        return [group for group in self.groups if isinstance(group.operations[0], SeparableStack)]

    @property
    def linear(self) -> list[Group]:
        return [group for group in self.groups if is_linear(group.operations[0])]


def push_edges(states: Sequence[Outgoing]) -> None:
    """Of states of one size: the batch normalisations of all their convolutions in one go."""
    push_stacks([(state.forms, group) for state in states for group in state.stacks])
    for state in states:
        push_linear(state.forms, state.linear, state.num_edges)
        for group in state.groups:
            push(state.forms, group)


def push(forms: Forms, group: Group) -> None:
    operation = group.operations[0]
    if isinstance(operation, FactorizedReduce):
        _push_factorized(forms, group)
    elif isinstance(operation, ReluConvBN) and operation.conv.kernel_size == (1, 1):
        _push_pointwise(forms, group)
    elif isinstance(operation, ReluConvBN):
        _push_convolution(forms, group)
    elif not (isinstance(operation, SeparableStack | Zero) or is_linear(operation)):
        for module, gate, share in zip(group.operations, group.gates, group.shares, strict=True):
            share.values.append(gate * module(forms.state))


def push_stacks(groups: Sequence[tuple[Forms, Group]], joint: Share | None = None) -> None:
    """Separable convolutions: all first stages, then all last ones, each batch normalised in one go.

    With a joint share the edges' convolutions lie side by side, as many as the forms have copies.
    """
    stacks = [stack for forms, group in groups for stack in _stacks(forms, group, joint)]
    if not stacks:
        return
    statistics = groups[0][0].statistics
    finished = [
        _last_stage([stack for stack in stacks if len(stack.stages) == depth], statistics)
        for depth in sorted({len(stack.stages) for stack in stacks})
    ]
    _finish_stacks(finished, statistics)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One stage of a separable convolution, of one edge or of several side by side."""

    parts: Sequence[SeparableConv]

    @property
    def weight(self) -> Tensor:
        weights = [part.depthwise.weight for part in self.parts]
        return torch.cat(weights) if len(weights) > 1 else weights[0]

    @property
    def kernel(self) -> Tensor:
        kernels = [part.pointwise.weight for part in self.parts]
        if len(kernels) == 1:
            return kernels[0]
        joined: Tensor = torch.block_diag(*(kernel.flatten(1) for kernel in kernels))
        return joined

    @property
    def geometry(self) -> Geometry:
        first = self.parts[0]
        return Geometry(first.kernel, first.stride, first.padding, first.dilation)


@dataclass(frozen=True, slots=True)
class _Stack:
    """A separable convolution; `split`: what it reads is in the layout of `split_phases`."""

    reading: Reading
    split: bool
    stages: Sequence[_Layer]
    gates: list[Tensor]
    share: Share


@dataclass(frozen=True, slots=True)
class _Finished:
    """Stacks before their last 1x1 convolutions."""

    stacks: Sequence[_Stack]
    measured: Measured


def _stacks(forms: Forms, group: Group, joint: Share | None) -> list[_Stack]:
    """One for each edge, or one for all where they lie side by side."""
    operations = [operation for operation in group.operations if isinstance(operation, SeparableStack)]
    if joint is None:
        edges = zip(operations, group.gates, group.shares, strict=True)
        return [_stack(forms, [operation], [gate], share) for operation, gate, share in edges]
    return [_stack(forms, operations, group.gates, joint)]


def _stack(forms: Forms, operations: Sequence[SeparableStack], gates: list[Tensor], share: Share) -> _Stack:
    stages = [_Layer(parts) for parts in zip(*(operation.stages for operation in operations), strict=True)]
    geometry, source = stages[0].geometry, forms.copied
    split = geometry.dilation == 2 and geometry.stride == 1 and len(stages) == 1 and splits(source)
    if split:
        source, geometry = forms.copied_phases, Geometry.centred(geometry.kernel)
    elif geometry.dilation == 2 and geometry.stride == 2:
        source, geometry = forms.copied_even, Geometry.centred(geometry.kernel)
    return _Stack(Reading(source, stages[0].weight, geometry), split, stages, gates, share)


def _last_stage(stacks: Sequence[_Stack], statistics: Statistics) -> _Finished:
    """Of stacks of equally many stages."""
    stages = list(zip(*(stack.stages for stack in stacks), strict=True))
    training = stages[0][0].parts[0].norm.training
    measured = convolve_and_measure([stack.reading for stack in stacks], measured=training)
    for layers, following in pairwise(stages):
        matrices, biases = _fold(layers, None, measured.moments, statistics)
        measured = rectify_convolve_and_measure(
            measured.batches,
            matrices,
            biases,
            [layer.weight for layer in following],
            [layer.geometry for layer in following],
            measured=training,
        )
    return _Finished(stacks, measured)


def _fold(
    layers: Sequence[_Layer], gates: Tensor | None, moments: Moments | None, statistics: Statistics
) -> tuple[Tensor, Tensor]:
    norms = [part.norm for layer in layers for part in layer.parts]
    return fold_points(
        blocks.stack([layer.kernel for layer in layers]).flatten(2), norms, gates, moments, statistics
    )


def _finish_stacks(finished: Sequence[_Finished], statistics: Statistics) -> None:
    stacks = [stack for part in finished for stack in part.stacks]
    batches = [batch for part in finished for batch in part.measured.batches]
    moments = [part.measured.moments for part in finished if part.measured.moments is not None]
    gates = torch.stack([gate for stack in stacks for gate in stack.gates])
    matrices, biases = _fold(
        [stack.stages[-1] for stack in stacks],
        gates,
        Moments.join(moments) if moments else None,
        statistics,
    )
    for stack, images, matrix, bias in zip(stacks, batches, matrices.unbind(), biases.unbind(), strict=True):
        stack.share.products.append(Product(images, matrix, stack.split))
        stack.share.biases.append(bias)


@dataclass(frozen=True, slots=True)
class _Row:
    """The last 1x1 convolution of a candidate on one edge."""

    kernel: Tensor
    norm: nn.BatchNorm2d
    gate: Tensor
    share: Share


def _push_products(images: Sequence[Tensor], rows: Sequence[_Row], statistics: Statistics) -> None:
    """`images`: one batch a row, or one that all rows share."""
    folded = fold(
        images,
        [row.kernel for row in rows],
        [row.norm for row in rows],
        torch.stack([row.gate for row in rows]),
        statistics,
    )
    matrices, biases = folded.matrices.unbind(), folded.biases.unbind()
    for row, batch, matrix, bias in zip(rows, folded.batches, matrices, biases, strict=True):
        row.share.products.append(Product(batch, matrix, False))
        row.share.biases.append(bias)


def _push_factorized(forms: Forms, group: Group) -> None:
    """All edges multiply the same images: the even pixels beside the odd ones."""
    rows = [
        _Row(
            layer.kernel,
            layer.norm,
            gate,
            share,
        )
        for layer, gate, share in zip(group.operations, group.gates, group.shares, strict=True)
        if isinstance(layer, FactorizedReduce)
    ]
    _push_products([forms.even_and_odd], rows, forms.statistics)


def _push_pointwise(forms: Forms, group: Group) -> None:
    layers = [operation for operation in group.operations if isinstance(operation, ReluConvBN)]
    images = forms.rectified if layers[0].conv.stride == (1, 1) else forms.even
    rows = [
        _Row(layer.conv.weight, layer.norm, gate, share)
        for layer, gate, share in zip(layers, group.gates, group.shares, strict=True)
    ]
    _push_products([images], rows, forms.statistics)


def _push_convolution(forms: Forms, group: Group) -> None:
    for share, value in zip(group.shares, convolved(forms, group).chunk(len(group.shares), 1), strict=True):
        share.values.append(value)


def convolved(forms: Forms, group: Group) -> Tensor:
    """One convolution for all edges; the gates are the learned scale of its batch normalisation."""
    layers = [operation for operation in group.operations if isinstance(operation, ReluConvBN)]
    conv, norms = layers[0].conv, [layer.norm for layer in layers]
    kernel = torch.cat([layer.conv.weight for layer in layers])
    images = F.conv2d(forms.rectified, kernel, None, conv.stride, conv.padding)
    scale = torch.stack(group.gates).repeat_interleave(conv.out_channels)
    return _normalise(images, norms, scale, forms.statistics)


def _normalise(
    images: Tensor, norms: Sequence[nn.BatchNorm2d], scale: Tensor, statistics: Statistics
) -> Tensor:
    """Normalise the channels of several edges, which lie side by side."""
    if norms[0].training:
        normalised, mean, variance = _normalise_and_measure(images, scale, norms[0].eps)
        sizes = (len(norms), -1)
        statistics.add(norms, mean.view(sizes), variance.view(sizes))
        return normalised
    mean, variance = running_statistics(norms)
    return F.batch_norm(images, mean.flatten(), variance.flatten(), scale, None, False, 0.0, norms[0].eps)


def _normalise_and_measure(images: Tensor, scale: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """With a momentum of 1 the running statistics are the batch's."""
    mean, variance = images.new_zeros(2, images.shape[1]).unbind()
    return F.batch_norm(images, mean, variance, scale, None, True, 1.0, eps), mean, variance


def is_linear(operation: nn.Module) -> bool:
    return isinstance(operation, nn.Identity | Pool)


def push_linear(forms: Forms, groups: Sequence[Group], num_edges: int) -> None:
    """Pooled images and the state itself: where all edges take them, one product with the gates' matrix."""
    common: list[Tensor] = []
    gates: list[Tensor] = []
    shares: list[Share] = []
    for group in groups:
        values = linear_values(forms, group.operations)
        if len(values) == num_edges and all(value is values[0] for value in values):
            common.append(values[0])
            gates.append(torch.stack(group.gates))
            shares = group.shares
        else:
            for share, gate, value in zip(group.shares, group.gates, values, strict=True):
                share.values.append(gate * value)
    if common:
        n, _, h, w = common[0].shape
        mixed = mix_linearly(torch.stack(gates, dim=1), common)
        for share, images in zip(shares, images_of_targets(mixed, (n, h, w)), strict=True):
            share.values.append(images)


def linear_values(forms: Forms, operations: Sequence[nn.Module]) -> list[Tensor]:
    """One an edge; in training all edges' batch normalisations give the same."""
    pools = [operation for operation in operations if isinstance(operation, Pool)]
    if not pools:
        return [forms.state] * len(operations)
    images = pooled(pools[0].pool, forms.state)
    norms = [pool.norm for pool in pools if pool.norm is not None]
    if not norms:
        return [images] * len(pools)
    if not norms[0].training:
        return [norm(images) for norm in norms]
    normalised, mean, variance = _normalise_and_measure(images, None, norms[0].eps)
    forms.statistics.add(norms, mean, variance)
    return [normalised] * len(norms)
