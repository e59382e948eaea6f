"""Once-for-All's search: evolution on predicted scores, the best of which are scored (arXiv:1908.09791)."""

import random

from nas_cli.accuracy_predictor import AccuracyPredictor, check_observations
from nas_cli.architecture import Architecture
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategy import Problem


class PredictedEvolution(SamplingStrategy):
    """Scores `predictor_samples` uniform samples, fits a predictor to them, and scores the best it predicts.

    `evolution` runs once, on predicted scores; the `num_finalists` best of all that it proposed are scored.
    What is found has the best score, not the best prediction.

    Deviations: the paper predicts by a network of three layers from 16,000 samples, and scores no finalists;
    its evolution has crossover and keeps the best. Raises ConfigError for too few samples.
    """

    def __init__(
        self, problem: Problem, evolution: Evolution, *, predictor_samples: int, num_finalists: int
    ) -> None:
        super().__init__(problem, num_evaluations=predictor_samples + num_finalists)
        check_observations(
            predictor_samples, f"strategy.predictor_samples={predictor_samples} sub-networks are scored first"
        )
        self.evolution = evolution
        self.predictor_samples, self.num_finalists = predictor_samples, num_finalists
        self.rng = random.Random(seed_for(problem.seed, "predicted evolution"))
        self.observed: list[tuple[Architecture, float]] = []
        self.finalists: list[Architecture] = []

    def propose(self) -> Proposal:
        place = len(self.observed) - self.predictor_samples
        if place < 0:
            return Proposal(self.problem.sample(self.rng))
        if place == 0:
            self.finalists = self._evolve()
        return Proposal(self.finalists[place % len(self.finalists)])

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.observed.append((self.problem.space.canonical(architecture), evaluation.score))

    def _evolve(self) -> list[Architecture]:
        """The best predicted ones that have no score yet; where all have one, the best predicted."""
        scores, space = dict(self.observed), self.problem.space
        predictor = AccuracyPredictor(space)
        predictor.fit(*zip(*self.observed, strict=True))
        predicted = {
            space.canonical(found.architecture): found.evaluation.score
            for found in self.evolution.evaluations(_Predicted(predictor))
        }
        ranked = sorted(predicted, key=predicted.__getitem__, reverse=True)
        unseen = [architecture for architecture in ranked if architecture not in scores]
        return unseen[: self.num_finalists] or ranked[:1]


class _Predicted(Evaluator):
    """The mean prediction; nothing is trained."""

    def __init__(self, predictor: AccuracyPredictor) -> None:
        self.predictor = predictor

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        mean, _ = self.predictor.predict([architecture])
        return Evaluation(float(mean[0]), seconds=0.0)
