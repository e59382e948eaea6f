"""Partial channel connections (PC-DARTS, arXiv:1907.05737): the candidates see one in K of the channels.

The first 1/K of a state's channels go through the candidates; the others pass by, weighed by the sum of
the edge's gate. Side by side again, the channels are shuffled, so that the next node's candidates see others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.errors import UnsupportedError
from nas_cli.supernet import Gate


def check_partial_channels(channels: int, partial_channels: int) -> None:
    """Raise UnsupportedError where the channels cannot be parted."""
    if channels % partial_channels:
        raise UnsupportedError(
            f"strategy.partial_channels={partial_channels}: a cell of {channels} channels has no "
            f"{partial_channels} equal parts. Set space.channels to a multiple of {partial_channels}, "
            "or strategy.partial_channels to a divisor of space.channels."
        )


def seen_channels(state: Tensor, partial_channels: int) -> Tensor:
    """The channels that the candidates see."""
    return state[:, : state.shape[1] // partial_channels]


def passing_channels(state: Tensor, partial_channels: int, stride: int) -> Tensor:
    """The channels that pass by; an edge that halves the size pools them, and sizes are rounded up."""
    rest = state[:, state.shape[1] // partial_channels :]
    return rest if stride == 1 else F.max_pool2d(rest, 2, stride=2, ceil_mode=True)


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
        seen = self.operation(seen_channels(x, self.partial_channels))
        passing = passing_channels(x, self.partial_channels, self.stride)
        return shuffle(seen, passing, self.partial_channels)
