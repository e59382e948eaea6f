"""All edges that leave one state, each candidate by its definition: what the fast form is held to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_cli.layers.operations import make_operation
from nas_cli.layers.partial_channels import edge_weights, pooled_to, shuffle
from nas_cli.layers.share import Share
from nas_cli.layers.statistics import Statistics
from nas_cli.supernet import Gate


class PlainState(nn.Module):
    """`rows[row][k]` is candidate k of an edge, whose value is sum_k gate[row, k] * candidate_k(state).

    `plain`: the depthwise convolutions of the candidates are torch's own calls. The candidates see the
    first 1/`partial_channels` of the state's channels.
    """

    plain = True

    def __init__(
        self,
        candidates: Sequence[str],
        channels: int,
        stride: int,
        num_edges: int,
        *,
        pool_norm: bool,
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        self.candidates = tuple(candidates)
        self.stride = stride
        self.partial_channels = partial_channels
        channels //= partial_channels
        self.rows = nn.ModuleList(
            nn.ModuleList(
                make_operation(name, channels, stride, affine=False, pool_norm=pool_norm, plain=self.plain)
                for name in candidates
            )
            for _ in range(num_edges)
        )

    def forward(self, state: Tensor, gate: Gate, statistics: Statistics) -> list[Share]:
        """What each edge brings to its target. Here batch normalisations keep their statistics themselves."""
        if self.partial_channels > 1:
            return self._partial(state, gate)
        return [Share(self._values(state, gate, row)) for row in range(len(self.rows))]

    def _partial(self, state: Tensor, gate: Gate) -> list[Share]:
        seen, *rest = state.chunk(self.partial_channels, 1)
        passing = pooled_to(self.stride, torch.cat(rest, 1))
        zero = torch.zeros_like(seen[:, :, :: self.stride, :: self.stride])
        return [
            Share(
                [shuffle(sum(self._values(seen, gate, row), zero), weight * passing, self.partial_channels)]
            )
            if gate.active[row]
            else Share()
            for row, weight in enumerate(edge_weights(gate))
        ]

    def _values(self, state: Tensor, gate: Gate, row: int) -> list[Tensor]:
        running = [k for k in gate.active[row] if self.candidates[k] != "none"]
        return [gate.weights[row, k] * self.operation(row, k)(state) for k in running]

    def operation(self, row: int, k: int) -> nn.Module:
        edge = self.rows[row]
        assert isinstance(edge, nn.ModuleList)
        return edge[k]
