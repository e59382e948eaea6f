"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search (arXiv:1907.05737)."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem


class PcDarts(Darts):
    """DARTS on one in `partial_channels` of the channels, with a weight for each edge of a node.

    An edge passes the other channels by its candidates. Its weight is a softmax over the edges that arrive at
    its node (edge normalisation), and multiplies the softmax over its candidates: the product is the
    gate, and what the architecture is derived from.

    Deviations: those of `Darts`. Where the size is odd, the pool of the passing channels rounds it up.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        partial_channels: Annotated[int, Field(ge=2)] = 4,
        learning_rate: Positive = 6e-4,
        betas: tuple[Share, Share] = (0.5, 0.999),
        weight_decay: NonNegative = 1e-3,
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            replace(problem, supernet=replace(problem.supernet, partial_channels=partial_channels)),
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )
        groups = self.supernet.row_groups
        self.edge_logits = self.initial_parameters("edge logits", [(len(group),) for group in groups])
        self.optimizer.add_param_group({"params": self.edge_logits})

    def weights(self) -> list[Tensor]:
        edges = self._edge_weights()
        return [
            logits.softmax(-1) * torch.stack([edges[gate, row] for row in range(len(logits))]).unsqueeze(1)
            for gate, logits in enumerate(self.logits)
        ]

    def _edge_weights(self) -> dict[tuple[int, int], Tensor]:
        """{(gate, row): the edge's weight}, which sum to one at each node."""
        return {
            row: weight
            for group, logits in zip(self.supernet.row_groups, self.edge_logits, strict=True)
            for row, weight in zip(group, logits.softmax(0).unbind(), strict=True)
        }
