"""All edges that leave one state, computed with what they share: the fast form.

Rectifying, pooling and splitting into phases happen once a state. A candidate ends as a product of
images with a small matrix that has its batch normalisation and its gate in it, or as a share of the
pooled images; the target sums them. The parameters are those of the plain form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.depthwise import depthwise_convs, split_phases
from nas_cli.layers.folded_norm import fold, running_statistics, track
from nas_cli.layers.operations import (
    FactorizedReduce,
    Pool,
    ReluConvBN,
    SeparableConv,
    SeparableStack,
    Zero,
    shifted,
)
from nas_cli.layers.partial_channels import edge_weights, passing_channels, seen_channels
from nas_cli.layers.plain_state import PlainState
from nas_cli.layers.pointwise import AffineRelu, images_of, pixels
from nas_cli.layers.share import Product, Share
from nas_cli.supernet import Gate


class _Forms:
    """The forms of a state that its edges share, each computed when first asked for."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    @cached_property
    def rectified(self) -> Tensor:
        return torch.relu(self.state)

    @cached_property
    def phases(self) -> Tensor:
        return split_phases(self.rectified)

    @cached_property
    def even(self) -> Tensor:
        return self.rectified[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    @cached_property
    def even_and_odd(self) -> Tensor:
        return torch.cat([self.even, shifted(self.rectified)[:, :, ::2, ::2]], dim=1)


@dataclass(frozen=True, slots=True)
class _Group:
    """One candidate, on all edges where it runs."""

    operations: Sequence[nn.Module]
    gates: list[Tensor]
    shares: list[Share]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A separable convolution before its last 1x1 convolution."""

    images: Tensor
    split: bool
    stages: tuple[SeparableConv, ...]
    gate: Tensor
    share: Share


class SharedState(PlainState):
    """PlainState's function and parameters; less work."""

    plain = False

    def forward(self, state: Tensor, gate: Gate) -> list[Share]:
        with torch.autocast(state.device.type, enabled=False):  # batch statistics want full precision
            state = state if state.dtype == torch.float64 else state.float()
            seen = seen_channels(state, self.partial_channels)
            forms = _Forms(seen.contiguous(memory_format=torch.channels_last))
            shares = [Share() for _ in gate.active]
            groups = self._groups(gate, shares)
            _push_stacks(
                forms, [group for group in groups if isinstance(group.operations[0], SeparableStack)]
            )
            _push_linear(forms, [group for group in groups if _is_linear(group.operations[0])], len(shares))
            for group in groups:
                _push(forms, group)
            if self.partial_channels > 1:
                self._pass_by(state, gate, shares)
            return shares

    def _pass_by(self, state: Tensor, gate: Gate, shares: list[Share]) -> None:
        """The channels that no candidate sees; the target sums and shuffles them, once for all edges."""
        passing = passing_channels(state, self.partial_channels, self.stride)
        for share, weight, active in zip(shares, edge_weights(gate), gate.active, strict=True):
            if active:
                share.passing.append((weight, passing))

    def _groups(self, gate: Gate, shares: list[Share]) -> list[_Group]:
        weights = [row.unbind() for row in gate.weights.unbind()]
        groups = []
        for k in range(len(self.candidates)):
            rows = [row for row, active in enumerate(gate.active) if k in active]
            if rows:
                operations = [self.operation(row, k) for row in rows]
                groups.append(_Group(operations, [weights[r][k] for r in rows], [shares[r] for r in rows]))
        return groups


def _push(forms: _Forms, group: _Group) -> None:
    operation = group.operations[0]
    if isinstance(operation, FactorizedReduce):
        _push_factorized(forms, group)
    elif isinstance(operation, ReluConvBN) and operation.conv.kernel_size == (1, 1):
        _push_pointwise(forms, group)
    elif isinstance(operation, ReluConvBN):
        _push_convolution(forms, group)
    elif not (isinstance(operation, SeparableStack | Zero) or _is_linear(operation)):
        for module, gate, share in zip(group.operations, group.gates, group.shares, strict=True):
            share.values.append(gate * module(forms.state))


def _push_stacks(forms: _Forms, groups: Sequence[_Group]) -> None:
    """Separable convolutions: all first stages, then all last ones, each batch normalised in one go."""
    pending = [stack for group in groups for stack in _start_stacks(forms, group)]
    repeated = [stack for stack in pending if len(stack.stages) > 1]
    pending = [stack for stack in pending if len(stack.stages) == 1]
    while repeated:
        advanced = _next_stage(repeated)
        repeated = [stack for stack in advanced if len(stack.stages) > 1]
        pending += [stack for stack in advanced if len(stack.stages) == 1]
    if pending:
        _finish_stacks(pending)


def _start_stacks(forms: _Forms, group: _Group) -> list[_Pending]:
    stacks = [operation.stages for operation in group.operations if isinstance(operation, SeparableStack)]
    first = stacks[0][0]
    source, dilation, stride = forms.rectified, first.dilation, first.stride
    split = dilation == 2 and stride == 1 and len(stacks[0]) == 1 and _splits(source)
    if split:
        source, dilation = forms.phases, 1
    elif dilation == 2 and stride == 2:
        source, dilation, stride = forms.even, 1, 1
    weights = [stages[0].depthwise.weight for stages in stacks]
    padding = dilation * (first.kernel // 2)
    convolved = depthwise_convs(source, weights, stride=stride, padding=padding, dilation=dilation)
    return [
        _Pending(images, split, stages, gate, share)
        for images, stages, gate, share in zip(convolved, stacks, group.gates, group.shares, strict=True)
    ]


def _splits(state: Tensor) -> bool:
    return state.device.type == "cpu" and state.shape[2] % 2 == 0 and state.shape[3] % 2 == 0


def _next_stage(stacks: Sequence[_Pending]) -> list[_Pending]:
    folded = fold(
        [stack.images for stack in stacks],
        [stack.stages[0].pointwise.weight for stack in stacks],
        [stack.stages[0].norm for stack in stacks],
        None,
    )
    rectified = AffineRelu.apply(folded.matrices, folded.biases, *folded.images)
    return [
        _Pending(stack.stages[1].convolve(images), False, stack.stages[1:], stack.gate, stack.share)
        for stack, images in zip(stacks, rectified, strict=True)
    ]


def _finish_stacks(stacks: Sequence[_Pending]) -> None:
    rows = [
        _Row(stack.stages[0].pointwise.weight, stack.stages[0].norm, stack.gate, stack.share, stack.split)
        for stack in stacks
    ]
    _push_products([stack.images for stack in stacks], rows)


@dataclass(frozen=True, slots=True)
class _Row:
    """The last 1x1 convolution of a candidate on one edge."""

    kernel: Tensor
    norm: nn.BatchNorm2d
    gate: Tensor
    share: Share
    split: bool = False


def _push_products(images: Sequence[Tensor], rows: Sequence[_Row]) -> None:
    """`images`: one batch a row, or one that all rows share."""
    folded = fold(
        images,
        [row.kernel for row in rows],
        [row.norm for row in rows],
        torch.stack([row.gate for row in rows]),
    )
    matrices, biases = folded.matrices.unbind(), folded.biases.unbind()
    for row, batch, matrix, bias in zip(rows, folded.images, matrices, biases, strict=True):
        row.share.products.append(Product(batch, matrix, row.split))
        row.share.biases.append(bias)


def _push_factorized(forms: _Forms, group: _Group) -> None:
    """All edges multiply the same images: the even pixels beside the odd ones."""
    rows = [
        _Row(
            torch.block_diag(layer.even.weight.flatten(1), layer.odd.weight.flatten(1)),
            layer.norm,
            gate,
            share,
        )
        for layer, gate, share in zip(group.operations, group.gates, group.shares, strict=True)
        if isinstance(layer, FactorizedReduce)
    ]
    _push_products([forms.even_and_odd], rows)


def _push_pointwise(forms: _Forms, group: _Group) -> None:
    layers = [operation for operation in group.operations if isinstance(operation, ReluConvBN)]
    images = forms.rectified if layers[0].conv.stride == (1, 1) else forms.even
    rows = [
        _Row(layer.conv.weight, layer.norm, gate, share)
        for layer, gate, share in zip(layers, group.gates, group.shares, strict=True)
    ]
    _push_products([images], rows)


def _push_convolution(forms: _Forms, group: _Group) -> None:
    """One convolution for all edges; the gates are the learned scale of its batch normalisation."""
    layers = [operation for operation in group.operations if isinstance(operation, ReluConvBN)]
    conv, norms = layers[0].conv, [layer.norm for layer in layers]
    kernel = torch.cat([layer.conv.weight for layer in layers])
    convolved = F.conv2d(forms.rectified, kernel, None, conv.stride, conv.padding)
    scale = torch.stack(group.gates).repeat_interleave(conv.out_channels)
    for share, value in zip(
        group.shares, _normalise(convolved, norms, scale).chunk(len(norms), 1), strict=True
    ):
        share.values.append(value)


def _normalise(images: Tensor, norms: Sequence[nn.BatchNorm2d], scale: Tensor) -> Tensor:
    """Normalise the channels of several edges, which lie side by side."""
    if norms[0].training:
        normalised, mean, variance = _normalise_and_measure(images, scale, norms[0].eps)
        track(norms, list(mean.chunk(len(norms))), list(variance.chunk(len(norms))))
        return normalised
    mean, variance = running_statistics(norms)
    return F.batch_norm(images, mean.flatten(), variance.flatten(), scale, None, False, 0.0, norms[0].eps)


def _normalise_and_measure(images: Tensor, scale: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """With a momentum of 1 the running statistics are the batch's."""
    mean, variance = images.new_zeros(images.shape[1]), images.new_zeros(images.shape[1])
    return F.batch_norm(images, mean, variance, scale, None, True, 1.0, eps), mean, variance


def _is_linear(operation: nn.Module) -> bool:
    return isinstance(operation, nn.Identity | Pool)


def _push_linear(forms: _Forms, groups: Sequence[_Group], num_edges: int) -> None:
    """Pooled images and the state itself: where all edges take them, one product with the gates' matrix."""
    common: list[Tensor] = []
    gates: list[Tensor] = []
    shares: list[Share] = []
    for group in groups:
        values = _linear_values(forms, group.operations)
        if len(values) == num_edges and all(value is values[0] for value in values):
            common.append(values[0])
            gates.append(torch.stack(group.gates))
            shares = group.shares
        else:
            for share, gate, value in zip(group.shares, group.gates, values, strict=True):
                share.values.append(gate * value)
    if common:
        flat = torch.stack([pixels(value).flatten() for value in common])
        mixed = torch.stack(gates, dim=1) @ flat
        for share, row in zip(shares, mixed.unbind(), strict=True):
            share.values.append(images_of(row.view(-1, common[0].shape[1]), common[0]))


def _linear_values(forms: _Forms, operations: Sequence[nn.Module]) -> list[Tensor]:
    """One an edge; in training all edges' batch normalisations give the same."""
    pools = [operation for operation in operations if isinstance(operation, Pool)]
    if not pools:
        return [forms.state] * len(operations)
    pooled: Tensor = pools[0].pool(forms.state)
    norms = [pool.norm for pool in pools if pool.norm is not None]
    if not norms:
        return [pooled] * len(pools)
    if not norms[0].training:
        return [norm(pooled) for norm in norms]
    normalised, mean, variance = _normalise_and_measure(pooled, None, norms[0].eps)
    track(norms, [mean] * len(norms), [variance] * len(norms))
    return [normalised] * len(norms)
