"""Search with an accuracy predictor: every score says what to try next (arXiv:1910.11858)."""

import random
from typing import Annotated

import numpy as np
from pydantic import Field

from nas_cli.accuracy_predictor import MIN_OBSERVATIONS, AccuracyPredictor, check_observations
from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.evaluators.zero_cost import ScoreName, Scorer
from nas_cli.recipe import Count
from nas_cli.run import Run
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Found, Problem


class Predictor(SamplingStrategy):
    """BANANAS (arXiv:1910.11858), with Gaussian processes for its ensemble of neural networks.

    After `num_initial` uniform samples, each batch has the best of `num_candidates` unseen ones by
    independent Thompson sampling: every member of it is the best of a draw of its own from the predicted
    scores. Half of the candidates are mutations of the `num_parents` best, half are uniform samples, where
    the paper mutates alone. The paper's ensemble sees the path encoding; `AccuracyPredictor` says what ours
    sees. With `zero_cost`, it also sees those scores of every candidate (as in arXiv:2104.01177); computing
    them takes no part of the evaluator's budget. What is found is the best score observed, not predicted.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        num_initial: Count = 8,
        batch_size: Count = 5,
        num_candidates: Annotated[int, Field(ge=2)] = 2000,
        num_parents: Count = 10,
        zero_cost: tuple[ScoreName, ...] = (),
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        check_observations(num_initial, f"strategy.num_initial={num_initial} architectures are scored first")
        self.num_initial, self.batch_size = num_initial, batch_size
        self.num_candidates, self.num_parents = num_candidates, num_parents
        if num_evaluations is not None:
            self._check_left_to_predict(num_evaluations)
        scorer, names = Scorer(problem) if zero_cost else None, zero_cost
        self.predictor = AccuracyPredictor(
            problem.space, lambda architecture: scorer.scores(architecture, names) if scorer else {}
        )
        self.scores: dict[Architecture, float] = {}
        self.batch: list[Architecture] = []
        self.chosen: set[Architecture] = set()
        self.rng = random.Random(seed_for(problem.seed, "predictor"))
        self.noise = np.random.default_rng(seed_for(problem.seed, "predictor", "noise"))

    def search(self, run: Run, evaluator: Evaluator) -> Found:
        if self.num_evaluations is None and evaluator.budget_seconds is None:
            self._check_left_to_predict(self.usual_evaluations)
        found = super().search(run, evaluator)
        if len(self.scores) <= self.num_initial:
            run.log.warning(
                f"The search ended with {len(self.scores)} different architectures, before its predictor "
                f"proposed any (strategy.num_initial={self.num_initial}): it was a random search."
            )
        return found

    def propose(self) -> Proposal | None:
        """None where the predictor waits for its first scores."""
        if len(self.scores) < self.num_initial:
            enough = len(self.scores) + self.num_unscored >= self.num_initial
            return None if enough else Proposal(self.problem.sample(self.rng))
        if not self.batch:
            self.predictor.fit(list(self.scores), list(self.scores.values()))
            self.batch = self.thompson_batch(self.candidates())
            self.chosen.update(self.batch)
        return Proposal(self.batch.pop())

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.scores[self.problem.space.canonical(architecture)] = evaluation.score

    def candidates(self) -> list[Architecture]:
        """Different architectures, neither scored nor chosen before; any, where all that were drawn are."""
        best = sorted(self.scores, key=self.scores.__getitem__, reverse=True)[: self.num_parents]
        half = self.num_candidates // 2
        drawn = [self.problem.mutate(best[k % len(best)], self.rng) for k in range(half)]
        drawn += [self.problem.sample(self.rng) for _ in range(self.num_candidates - half)]
        different = list(dict.fromkeys(map(self.problem.space.canonical, drawn)))
        known = self.scores.keys() | self.chosen
        return [architecture for architecture in different if architecture not in known] or different

    def thompson_batch(self, candidates: list[Architecture]) -> list[Architecture]:
        """The best candidate of each of `batch_size` draws; the same one is taken once."""
        mean, deviation = self.predictor.predict(candidates)
        draws = mean + deviation * self.noise.standard_normal((self.batch_size, len(mean)))
        return [candidates[k] for k in dict.fromkeys(draws.argmax(axis=1).tolist())]

    def _check_left_to_predict(self, num_evaluations: int) -> None:
        if num_evaluations <= self.num_initial:
            raise ConfigError(
                f"strategy.num_evaluations={num_evaluations} leaves the predictor nothing to propose after "
                f"the strategy.num_initial={self.num_initial} architectures that it learns from. Raise "
                f"strategy.num_evaluations, or lower strategy.num_initial to {MIN_OBSERVATIONS} at least."
            )
