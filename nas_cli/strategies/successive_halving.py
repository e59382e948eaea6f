"""Successive halving (arXiv:1502.07943): many architectures scored after few epochs, the best after more."""

import random
from typing import Annotated

from pydantic import Field

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Count
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Problem


class SuccessiveHalving(SamplingStrategy):
    """Brackets of rungs: of those scored at one fidelity (epochs) the best 1/eta are scored at the next.

    A bracket begins with `num_architectures` new samples at `min_fidelity`; each rung's fidelity is eta
    times the last one's, up to `max_fidelity` itself, and its number 1/eta of the last one's, at least one.
    When a bracket is done, the next begins, as the budget counts evaluations or seconds where the paper's
    is that of one bracket. A promoted architecture is trained from the start and costs its whole fidelity,
    where the paper goes on with the weights it has. Samples do not repeat a network, unless the whole space
    seems known. Without a budget `num_evaluations` is that of one bracket.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        num_architectures: Annotated[int, Field(ge=2)] = 9,
        min_fidelity: Count = 1,
        max_fidelity: Count = 9,
        eta: Annotated[int, Field(ge=2)] = 3,
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        if min_fidelity >= max_fidelity:
            raise ConfigError(
                f"strategy.min_fidelity={min_fidelity} is not below strategy.max_fidelity={max_fidelity}: "
                "there is nothing to save. Lower the first or raise the second."
            )
        self.eta = eta
        self.fidelities = _fidelities(min_fidelity, max_fidelity, eta)
        self.sizes = [max(1, num_architectures // eta**rung) for rung in range(len(self.fidelities))]
        self.usual_evaluations = sum(self.sizes)
        self.rng = random.Random(seed_for(problem.seed, "successive halving"))
        self.known: set[Architecture] = set()
        self.rung = 0
        self.waiting: list[Architecture] = []
        self.scored: list[tuple[float, Architecture]] = []

    def expected(self, evaluator: Evaluator) -> dict[int | None, float]:
        evaluations = sum(super().expected(evaluator).values()) / sum(self.sizes)
        return {
            fidelity: evaluations * size for fidelity, size in zip(self.fidelities, self.sizes, strict=True)
        }

    def propose(self) -> Proposal | None:
        """None where the whole rung is proposed and not scored yet."""
        if len(self.scored) + self.num_unscored == self.sizes[self.rung]:
            return None
        if self.rung == 0:
            architecture = self.problem.sample_new(self.rng, self.known)
            self.known.add(self.problem.space.canonical(architecture))
        else:
            architecture = self.waiting.pop(0)
        return Proposal(architecture, self.fidelities[self.rung])

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.scored.append((evaluation.score, architecture))
        if len(self.scored) == self.sizes[self.rung]:
            self._next_rung()

    def _next_rung(self) -> None:
        self.rung = (self.rung + 1) % len(self.sizes)
        best_first = sorted(self.scored, key=lambda scored: -scored[0])
        self.scored = []
        if self.rung > 0:
            self.waiting = [architecture for _, architecture in best_first[: self.sizes[self.rung]]]


def _fidelities(least: int, most: int, eta: int) -> tuple[int, ...]:
    """`least` times powers of eta while they are below `most`, and `most`."""
    fidelities = []
    while least < most:
        fidelities.append(least)
        least *= eta
    return (*fidelities, most)
