"""All edges that leave one state, computed with what they share: the fast form.

Rectifying, pooling and splitting into phases happen once a state. A candidate ends as a product of
images with a small matrix that has its batch normalisation and its gate in it, or as a share of the
pooled images; the target sums them. The parameters are those of the plain form.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_conv2d, depthwise_convs
from nas_cli.layers.folded_norm import Folded, fold
from nas_cli.layers.forms import Forms, splits
from nas_cli.layers.linear_mix import images_of_targets, mix_linearly
from nas_cli.layers.operations import (
    FactorizedReduce,
    Pool,
    ReluConvBN,
    SeparableConv,
    SeparableStack,
    Zero,
)
from nas_cli.layers.plain_state import PlainState
from nas_cli.layers.pointwise import AffineRelu
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


@dataclass(frozen=True, slots=True)
class _Pending:
    """A separable convolution before its last 1x1 convolution, of one edge or of several side by side."""

    images: Tensor
    split: bool
    stages: list[tuple[SeparableConv, ...]]
    gates: list[Tensor]
    share: Share

    @property
    def kernel(self) -> Tensor:
        kernels = [stages[0].pointwise.weight for stages in self.stages]
        return (
            torch.block_diag(*(kernel.flatten(1) for kernel in kernels)) if len(kernels) > 1 else kernels[0]
        )

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [stages[0].norm for stages in self.stages]


class SharedState(PlainState):
    """PlainState's function and parameters; less work."""

    plain = False

    def forward(self, state: Tensor, gate: Gate, statistics: Statistics) -> list[Share]:
        with outside_autocast(state):
            shares = [Share() for _ in gate.active]
            push_edges(
                Forms.of(state, statistics),
                self.groups(gate, shares, range(len(self.candidates))),
                len(shares),
            )
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


def push_edges(forms: Forms, groups: Sequence[Group], num_edges: int) -> None:
    push_stacks(forms, [group for group in groups if isinstance(group.operations[0], SeparableStack)])
    push_linear(forms, [group for group in groups if is_linear(group.operations[0])], num_edges)
    for group in groups:
        push(forms, group)


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


def push_stacks(forms: Forms, groups: Sequence[Group], joint: Share | None = None) -> None:
    """Separable convolutions: all first stages, then all last ones, each batch normalised in one go.

    With a joint share the edges' convolutions lie side by side, as many as `forms` has copies.
    """
    pending = [stack for group in groups for stack in _start_stacks(forms, group, joint)]
    repeated = [stack for stack in pending if len(stack.stages[0]) > 1]
    pending = [stack for stack in pending if len(stack.stages[0]) == 1]
    while repeated:
        advanced = _next_stage(repeated, forms.statistics)
        repeated = [stack for stack in advanced if len(stack.stages[0]) > 1]
        pending += [stack for stack in advanced if len(stack.stages[0]) == 1]
    if pending:
        _finish_stacks(pending, forms.statistics)


def _start_stacks(forms: Forms, group: Group, joint: Share | None) -> list[_Pending]:
    stacks = [operation.stages for operation in group.operations if isinstance(operation, SeparableStack)]
    first = stacks[0][0]
    source, dilation, stride = forms.copied, first.dilation, first.stride
    split = dilation == 2 and stride == 1 and len(stacks[0]) == 1 and splits(source)
    if split:
        source, dilation = forms.copied_phases, 1
    elif dilation == 2 and stride == 2:
        source, dilation, stride = forms.copied_even, 1, 1
    weights = [stages[0].depthwise.weight for stages in stacks]
    padding = dilation * (first.kernel // 2)
    if joint is not None:
        (images,) = depthwise_convs(
            source, [torch.cat(weights)], stride=stride, padding=padding, dilation=dilation
        )
        return [_Pending(images, split, stacks, group.gates, joint)]
    results = depthwise_convs(source, weights, stride=stride, padding=padding, dilation=dilation)
    return [
        _Pending(images, split, [stages], [gate], share)
        for images, stages, gate, share in zip(results, stacks, group.gates, group.shares, strict=True)
    ]


def _next_stage(stacks: Sequence[_Pending], statistics: Statistics) -> list[_Pending]:
    folded = _fold_stage(stacks, None, statistics)
    rectified = AffineRelu.apply(folded.matrices, folded.biases, *folded.batches)
    advanced = []
    for stack, images in zip(stacks, rectified, strict=True):
        stages = [stages[1:] for stages in stack.stages]
        advanced.append(_Pending(_convolve(images, stages), False, stages, stack.gates, stack.share))
    return advanced


def _convolve(images: Tensor, stages: Sequence[tuple[SeparableConv, ...]]) -> Tensor:
    """The next depthwise convolutions, of one edge or of several side by side."""
    first = stages[0][0]
    if len(stages) == 1:
        return first.convolve(images)
    weight = torch.cat([edge[0].depthwise.weight for edge in stages])
    return depthwise_conv2d(
        images, weight, stride=first.stride, padding=first.padding, dilation=first.dilation
    )


def _fold_stage(stacks: Sequence[_Pending], gates: Tensor | None, statistics: Statistics) -> Folded:
    norms = [norm for stack in stacks for norm in stack.norms]
    images = [stack.images for stack in stacks]
    return fold(images, [stack.kernel for stack in stacks], norms, gates, statistics)


def _finish_stacks(stacks: Sequence[_Pending], statistics: Statistics) -> None:
    gates = torch.stack([gate for stack in stacks for gate in stack.gates])
    folded = _fold_stage(stacks, gates, statistics)
    matrices, biases = folded.matrices.unbind(), folded.biases.unbind()
    for stack, images, matrix, bias in zip(stacks, folded.batches, matrices, biases, strict=True):
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
