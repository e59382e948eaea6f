"""Beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search (arXiv:2203.01665)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem


class BetaDarts(Darts):
    """DARTS whose gate weights are decayed: the mean over all rows of logsumexp(logits) joins the loss.

    The decay's weight rises linearly with the epochs from 0 to `beta_decay`, so that the gates decide
    early and are held back late, when skips win.

    Deviations: those of `Darts`; of two kinds of cells all rows make one mean.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        beta_decay: NonNegative = 50.0,
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
        self.beta_decay = beta_decay
        self.decay = 0.0

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.decay = self.beta_decay * epoch / self.epochs

    def regulariser(self) -> Tensor:
        return self.decay * torch.cat([logits.logsumexp(-1) for logits in self.logits]).mean()
