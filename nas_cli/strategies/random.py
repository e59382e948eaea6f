"""Random search (arXiv:1902.07638): the baseline that every other strategy has to beat."""

import random

from nas_cli.recipe import Count
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Problem


class RandomSearch(SamplingStrategy):
    """Uniform samples of the space, with replacement; the best one seen is found."""

    def __init__(self, problem: Problem, *, num_evaluations: Count | None = None) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        self.rng = random.Random(seed_for(problem.seed, "random search"))

    def propose(self) -> Proposal:
        return Proposal(self.problem.sample(self.rng))
