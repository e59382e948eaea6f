"""Partial channel connections (PC-DARTS, arXiv:1907.05737): the candidates see one in K of the channels.

The first 1/K of a state's channels go through the candidates; the others pass by, weighed by the sum of
the edge's gate. Side by side again, the channels are shuffled, so that the next node's candidates see others.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.errors import UnsupportedError
from nas_cli.layers.pointwise import Context, images_of, pixels
from nas_cli.supernet import Gate


def check_partial_channels(channels: int, partial_channels: int) -> None:
    """Raise UnsupportedError where the channels cannot be parted."""
    if channels % partial_channels:
        raise UnsupportedError(
            f"strategy.partial_channels={partial_channels}: a cell of {channels} channels has no "
            f"{partial_channels} equal parts. Set space.channels to a multiple of {partial_channels}, "
            "or strategy.partial_channels to a divisor of space.channels."
        )


def pooled_to(stride: int, passing: Tensor) -> Tensor:
    """Channels that pass by an edge: one that halves the size pools them, and sizes are rounded up."""
    return passing if stride == 1 else F.max_pool2d(passing, 2, stride=2, ceil_mode=True)


def edge_weights(gate: Gate) -> tuple[Tensor, ...]:
    """For each row the sum of its active weights, zero where none is active."""
    if all(len(active) == gate.weights.shape[1] for active in gate.active):
        return gate.weights.sum(1).unbind()
    rows = [row.unbind() for row in gate.weights.unbind()]
    return tuple(
        torch.stack([row[k] for k in active]).sum() if active else gate.weights.new_zeros(())
        for row, active in zip(rows, gate.active, strict=True)
    )


def shuffle(seen: Tensor, passing: Tensor, partial_channels: int) -> Tensor:
    """The K groups of channels dealt out in turn: first the first of each group, then the second of each."""
    groups = [seen, *passing.chunk(partial_channels - 1, 1)]
    dealt = torch.stack([group.permute(0, 2, 3, 1) for group in groups], dim=-1)
    return dealt.flatten(3).permute(0, 3, 1, 2)


class PartialOperation(nn.Module):
    """An edge of one candidate, which sees one in K of the channels."""

    def __init__(self, operation: nn.Module, partial_channels: int, stride: int) -> None:
        super().__init__()
        self.operation = operation
        self.partial_channels = partial_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        seen, *rest = x.chunk(self.partial_channels, 1)
        passing = pooled_to(self.stride, torch.cat(rest, 1))
        return shuffle(self.operation(seen), passing, self.partial_channels)


class Blend(torch.autograd.Function):
    """The sum of image batches, each times its weight; weights (r), r batches of one shape."""

    @staticmethod
    def forward(ctx: Context, weights: Tensor, *batches: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *batches)
        scalars = weights.unbind()
        blended = batches[0] * scalars[0]
        for weight, images in zip(scalars[1:], batches[1:], strict=True):
            blended.addcmul_(images, weight)
        return blended

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *batches = ctx.saved_tensors
        for_weights = None
        if ctx.needs_input_grad[0]:
            flat = pixels(gradient).flatten()
            for_weights = torch.stack([torch.dot(flat, pixels(images).flatten()) for images in batches])
        for_batches = (
            gradient * weight if needed else None
            for weight, needed in zip(weights.unbind(), ctx.needs_input_grad[1:], strict=True)
        )
        return for_weights, *for_batches


def blend_and_shuffle(
    seen: Tensor | None, passing: Sequence[tuple[Tensor, Tensor]], partial_channels: int
) -> Tensor:
    """`shuffle` of the seen channels, zero where None, and the weighed sum of (weight, images) that pass.

    By products with a permutation: they and their gradients are faster than dealing channels out.
    """
    weights, batches = zip(*passing, strict=True)
    blended: Tensor = Blend.apply(torch.stack(weights), *batches)
    channels = blended.shape[1] // (partial_channels - 1)
    identity = torch.eye(channels * partial_channels, device=blended.device, dtype=blended.dtype)
    dealt = identity.view(channels, partial_channels, -1).transpose(0, 1).flatten(0, 1)
    shuffled = pixels(blended) @ dealt[channels:]
    if seen is not None:
        shuffled = shuffled + pixels(seen) @ dealt[:channels]
    return images_of(shuffled, blended)
