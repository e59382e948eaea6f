"""Local search (arXiv:2005.02960): move to the best neighbour until there is none better, then start anew."""

import random
from typing import Literal

from nas_cli.architecture import Architecture
from nas_cli.evaluator import Evaluation
from nas_cli.recipe import Count
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Problem


class LocalSearch(SamplingStrategy):
    """From a uniform sample to a better architecture one pick away, until none of them is better.

    `move=best` scores all neighbours and moves to the best, the paper's plain form; `move=first` moves to
    the first that is better, in random order, its variant that asks only until then. At a local optimum it
    starts anew from a sample, as the paper does while there is budget. No network is scored twice
    (`space.canonical`), but where the whole space seems known: what is known of a neighbourhood is used.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        move: Literal["best", "first"] = "first",
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        self.move = move
        self.rng = random.Random(seed_for(problem.seed, "local search"))
        self.scores: dict[Architecture, float] = {}
        self.current: Architecture | None = None
        self.waiting: list[Architecture] = []

    def propose(self) -> Proposal | None:
        """None where neighbours in flight may be better."""
        while not self.waiting and self.current is not None:
            if self.num_unscored:
                return None
            self._look_around(self.current)
        if self.current is None:
            self.current = self.problem.sample_new(self.rng, self.scores)
            self.waiting = [self.current]
        return Proposal(self.waiting.pop())

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.scores[self.problem.space.canonical(architecture)] = evaluation.score
        assert self.current is not None
        if self.move == "first" and evaluation.score > self._score(self.current):
            self.current, self.waiting = architecture, []

    def _look_around(self, current: Architecture) -> None:
        """Let the unknown neighbours wait for their scores; where all are known, move or give up."""
        neighbours = self.problem.neighbours(current)
        distinct = {self.problem.space.canonical(one): one for one in neighbours}
        self.waiting = [one for canonical, one in distinct.items() if canonical not in self.scores]
        self.rng.shuffle(self.waiting)
        if not self.waiting:
            best = max(neighbours, key=self._score, default=current)
            self.current = best if self._score(best) > self._score(current) else None

    def _score(self, architecture: Architecture) -> float:
        return self.scores[self.problem.space.canonical(architecture)]
