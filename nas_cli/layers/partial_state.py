"""The fast form of a state whose candidates see one in K of its channels (arXiv:1907.05737).

So few channels leave a processor's vectors half empty. Where all candidates run, what the edges compute
lies side by side: one depthwise convolution for all of them, one product for each candidate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_cli.layers.folded_norm import fold
from nas_cli.layers.forms import Forms
from nas_cli.layers.operations import FactorizedReduce, Pool, ReluConvBN, SeparableStack
from nas_cli.layers.partial_channels import edge_weights, pooled_to
from nas_cli.layers.pooling import pooled
from nas_cli.layers.precision import outside_autocast
from nas_cli.layers.share import Product, Share, total
from nas_cli.layers.shared_state import Group, SharedState, convolved, push, push_stacks
from nas_cli.layers.statistics import Statistics
from nas_cli.supernet import Gate


class PartialState(SharedState):
    """PlainState's function and parameters; what passes by is summed and shuffled once a target."""

    def forward(self, state: Tensor, gate: Gate, statistics: Statistics) -> list[Share]:
        state = state if state.dtype == torch.float64 else state.float()
        channels = state.shape[1] // self.partial_channels
        seen, rest = (
            part.contiguous(memory_format=torch.channels_last)
            for part in state.split([channels, state.shape[1] - channels], dim=1)
        )
        passing = pooled_to(self.stride, rest)
        complete = all(len(active) == len(self.candidates) for active in gate.active)
        shares = (self._side_by_side if complete else super().forward)(seen, gate, statistics)
        for share, weight, active in zip(shares, edge_weights(gate), gate.active, strict=True):
            if active:
                share.passing.append((weight, passing))
        return shares

    def _side_by_side(self, seen: Tensor, gate: Gate, statistics: Statistics) -> list[Share]:
        with outside_autocast(seen):
            forms = Forms(seen, statistics, copies=len(self.rows))
            shares, joint = [Share() for _ in self.rows], Share()
            groups = self.groups(gate, shares, range(len(self.candidates)))
            stacks = [group for group in groups if isinstance(group.operations[0], SeparableStack)]
            push_stacks([(forms, stack) for stack in stacks], joint)
            for group in groups:
                _push_jointly(forms, group, joint)
            images = total([joint])
            if images is not None:
                for share, part in zip(shares, images.chunk(len(shares), 1), strict=True):
                    share.values.append(part)
            return shares


def _push_jointly(forms: Forms, group: Group, joint: Share) -> None:
    operation = group.operations[0]
    if isinstance(operation, FactorizedReduce):
        layers = [layer for layer in group.operations if isinstance(layer, FactorizedReduce)]
        _push_normalised(forms, forms.even_and_odd, [layer.kernel for layer in layers], group, joint)
    elif isinstance(operation, ReluConvBN) and operation.conv.kernel_size == (1, 1):
        _push_normalised(
            forms,
            forms.rectified if operation.conv.stride == (1, 1) else forms.even,
            [layer.conv.weight for layer in group.operations if isinstance(layer, ReluConvBN)],
            group,
            joint,
        )
    elif isinstance(operation, ReluConvBN):
        joint.values.append(convolved(forms, group))
    elif isinstance(operation, Pool) and operation.norm is not None:
        images = pooled(operation.pool, forms.state)
        _push_normalised(forms, images, [_identity(images)] * len(group.gates), group, joint)
    elif isinstance(operation, Pool | nn.Identity):
        _push_scaled(
            pooled(operation.pool, forms.state) if isinstance(operation, Pool) else forms.state, group, joint
        )
    elif not isinstance(operation, SeparableStack):
        push(forms, group)


def _push_normalised(
    forms: Forms, images: Tensor, kernels: Sequence[Tensor], group: Group, joint: Share
) -> None:
    """1x1 convolutions of the same images, one an edge, with their batch normalisations and gates."""
    norms = [norm for layer in group.operations if isinstance(norm := layer.norm, nn.BatchNorm2d)]
    folded = fold([images], kernels, norms, torch.stack(group.gates), forms.statistics)
    joint.products.append(Product(folded.batches[0], torch.cat(folded.matrices.unbind(), dim=1), False))
    joint.biases.append(folded.biases.flatten())


def _push_scaled(images: Tensor, group: Group, joint: Share) -> None:
    """The same images for every edge, times its gate."""
    matrix = torch.cat([gate * _identity(images) for gate in group.gates], dim=1)
    joint.products.append(Product(images, matrix, False))
    joint.biases.append(torch.zeros_like(matrix[0]))


def _identity(images: Tensor) -> Tensor:
    return torch.eye(images.shape[1], device=images.device, dtype=images.dtype)
