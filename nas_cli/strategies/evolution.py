"""Regularised evolution (arXiv:1802.01548): the oldest of the population dies, not the worst."""

import random
from collections import deque
from typing import Annotated

from pydantic import Field

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation
from nas_cli.recipe import Count
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Problem


class Evolution(SamplingStrategy):
    """Each child is a mutation of the best of `tournament_size` members drawn from the population.

    The first `population_size` proposals are uniform samples; from then on each observed child joins the
    population and the oldest member leaves it. A mutation changes exactly one pick; the paper's identity
    mutation, which scores the parent again, is left out: the same seed gives the same score.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        population_size: Annotated[int, Field(ge=2)] = 10,
        tournament_size: Count = 3,
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        if tournament_size > population_size:
            raise ConfigError(
                f"strategy.tournament_size={tournament_size} is more than strategy.population_size="
                f"{population_size}, of which it is drawn. Lower it."
            )
        self.tournament_size = tournament_size
        self.population: deque[tuple[float, Architecture]] = deque(maxlen=population_size)
        self.rng = random.Random(seed_for(problem.seed, "evolution"))

    def propose(self) -> Proposal:
        if len(self.population) < (self.population.maxlen or 0):
            return Proposal(self.problem.sample(self.rng))
        tournament = self.rng.sample(self.population, self.tournament_size)
        _, parent = max(tournament, key=lambda member: member[0])
        return Proposal(self.problem.mutate(parent, self.rng))

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.population.append((evaluation.score, architecture))
