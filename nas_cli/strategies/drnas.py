"""DrNAS: Dirichlet Neural Architecture Search (arXiv:2006.10355)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.seeds import seeded
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate


class DrNas(Darts):
    """Gates drawn from Dirichlet distributions, whose concentrations descend on the loss through the draw.

    A row's concentration is elu(parameter) + 1. The regulariser, `scale` times a distance, holds it to the
    anchor of ones: `l2`, half the squared distance, whose gradient near the anchor is that of the weight
    decay which the authors' code has in its place; or `kl`, the divergence of the distributions. The
    architecture is derived from the means.

    Deviations: those of `Darts`. The paper's progressive scheme is left out (ever more channels through ever
    fewer candidates): it widens the kernels in the middle of the search, so it is a second supernet and a
    second optimiser, not a matter of gates.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        regulariser: Literal["l2", "kl"] = "l2",
        scale: NonNegative = 1e-3,
        learning_rate: Positive = 3e-4,
        betas: tuple[Share, Share] = (0.5, 0.999),
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            problem, learning_rate=learning_rate, betas=betas, weight_decay=0.0, warmup_epochs=warmup_epochs
        )
        self.distance, self.scale = regulariser, scale

    def concentrations(self) -> list[Tensor]:
        return [F.elu(parameter) + 1 for parameter in self.logits]

    def weights(self) -> list[Tensor]:
        return [rows / rows.sum(-1, keepdim=True) for rows in self.concentrations()]

    def gates(self) -> list[Gate]:
        draw = int(torch.randint(2**62, (), generator=self.draws))
        with seeded(
            self.problem.seed, "dirichlet", draw
        ):  # torch's distributions know the global generator only
            return [Gate.soft(_dirichlet(rows).rsample()) for rows in self.concentrations()]

    def regulariser(self) -> Tensor:
        if self.distance == "l2":
            distances = [0.5 * (rows - 1).square().sum() for rows in self.concentrations()]
        else:
            distances = [
                kl_divergence(_dirichlet(rows), _dirichlet(torch.ones_like(rows))).sum()
                for rows in self.concentrations()
            ]
        return self.scale * torch.stack(distances).sum()


def _dirichlet(concentration: Tensor) -> Dirichlet:
    """Without torch's check of the values, which waits for the device."""
    return Dirichlet(concentration, validate_args=False)
