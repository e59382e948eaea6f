"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (arXiv:1910.04465)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate


class Gdas(Darts):
    """One candidate a row runs, drawn by Gumbel's trick; the gradient is that of the softmax it came from.

    The temperature falls linearly from epoch to epoch. Weights and architecture train on draws of their
    own. What runs must be known on the host: a pass moves one small tensor from the device.

    Deviations: a candidate that does not run gives the gate no gradient, where the authors' code adds its
    gate's zero to the map as if its output were one. Weights that do not run neither decay nor move. The
    reduction cell is searched (the paper's variant FRC fixes it).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        temperature: Positive = 10.0,
        final_temperature: Positive = 0.1,
        learning_rate: Positive = 3e-4,
        betas: tuple[Share, Share] = (0.5, 0.999),
        weight_decay: NonNegative = 1e-3,
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            problem,
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )
        self.first_temperature, self.final_temperature = temperature, final_temperature
        self.temperature = temperature

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        fall = epoch / max(1, self.epochs - 1)
        self.temperature = self.first_temperature + fall * (self.final_temperature - self.first_temperature)

    def gates(self) -> list[Gate]:
        weights = [straight_through(self._disturbed(logits)) for logits in self.logits]
        picks = iter(torch.cat([rows.detach().argmax(-1) for rows in weights]).tolist())
        return [Gate(rows, tuple((next(picks),) for _ in rows)) for rows in weights]

    def _disturbed(self, logits: Tensor) -> Tensor:
        """A draw of the Gumbel softmax (arXiv:1611.01144) at the temperature of the epoch."""
        gumbel = -torch.empty(logits.shape).exponential_(generator=self.draws).log()
        return ((logits + gumbel.to(logits.device, logits.dtype)) / self.temperature).softmax(-1)


def straight_through(soft: Tensor) -> Tensor:
    """Exactly one-hot where a row is largest, with the gradient of the row."""
    hard = F.one_hot(soft.detach().argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())
