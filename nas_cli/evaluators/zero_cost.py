"""The score of an architecture without training it."""

import copy
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Literal

from pydantic import Field

from nas_cli.architecture import Architecture
from nas_cli.data import NO_AUGMENTATION, Batch, Batches
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.rehearsal import Piece
from nas_cli.seeds import seed_for, seeded
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet
from nas_cli.zero_cost import Probe, grad_norm, naswot, snip, synflow

ScoreName = Literal["synflow", "naswot", "grad_norm", "snip"]
SCORES: Mapping[ScoreName, Callable[[Probe], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "grad_norm": grad_norm,
    "snip": snip,
}


class ZeroCost(Evaluator):
    """Scores the freshly initialised network of the space's size on one batch (arXiv:2101.08134).

    All architectures start from the same seed and see the same batch, the first of the weights' part.
    `rank_sum` is the sum of an architecture's ranks by all four scores. A rank needs a population: it is that
    among `num_references` architectures drawn from the problem's seed, so that an architecture's score
    does not depend on what else was evaluated. Between two references a rank is interpolated, and beyond
    the last one it grows by less than one, so that better ones remain told apart. `metrics` has all scores
    that were computed. There are no epochs: a fidelity is refused.
    """

    unit = ""

    def __init__(
        self,
        problem: Problem,
        supernet: Supernet | None = None,
        *,
        score: Literal["synflow", "naswot", "grad_norm", "snip", "rank_sum"] = "rank_sum",
        batch_size: Annotated[int, Field(ge=2)] = 64,
        num_references: Annotated[int, Field(ge=2)] = 50,
    ) -> None:
        self.problem, self.score = problem, score
        self.names = SCORES if score == "rank_sum" else (score,)
        self.num_references = num_references
        self.scorer = Scorer(problem, batch_size)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.perf_counter()
        if fidelity is not None:
            raise UnsupportedError(
                f"evaluator=zero_cost trains nothing, and this strategy asks for scores after {fidelity} "
                "epochs. Use evaluator=from_scratch with it."
            )
        scores = self.scorer.scores(architecture, self.names)
        if self.score == "rank_sum":
            scores["rank_sum"] = sum(rank(scores[name], self.references[name]) for name in SCORES)
        return Evaluation(scores[self.score], time.perf_counter() - started, scores)

    def pieces(self, architecture: Architecture, evaluations: Mapping[int | None, float]) -> list[Piece]:
        """The references are scored once, before the first architecture."""
        references = self.num_references if self.score == "rank_sum" else 0
        times = sum(evaluations.values()) + references
        batch = self.scorer.batch
        return [Piece("scoring", times, len(batch.labels), partial(self._score_once, architecture))]

    def _score_once(self, architecture: Architecture, num_images: int) -> None:
        scorer = copy.copy(self.scorer)
        scorer.batch = Batch(*(part[:num_images] for part in scorer.batch))
        scorer.scores(architecture, self.names)

    @cached_property
    def references(self) -> dict[str, list[float]]:
        """For each score, those of the architectures that ranks are among, ascending."""
        rng = random.Random(seed_for(self.problem.seed, "zero cost references"))
        drawn = [self.problem.sample(rng) for _ in range(self.num_references)]
        scored = [self.scorer.scores(architecture, SCORES) for architecture in drawn]
        return {name: sorted(scores[name] for scores in scored) for name in SCORES}


class Scorer:
    """Computes scores by name. Raises ConfigError where there are fewer images than one batch."""

    def __init__(self, problem: Problem, batch_size: int = 64) -> None:
        self.problem = problem
        part, _ = problem.data.split(problem.recipe.weights_share, problem.seed)
        if batch_size > len(part):
            raise ConfigError(
                f"Zero-cost scores need a batch of {batch_size} images, and there are {len(part)} for the "
                "weights. Give more images (dataset.limit, recipe.weights_share) or, with "
                "evaluator=zero_cost, lower evaluator.batch_size."
            )
        batches = Batches(
            part, problem.data.info, batch_size=batch_size, seed=problem.seed, augmentation=NO_AUGMENTATION
        )
        self.batch = problem.trainer.arrange(batches.batch(0))

    def scores(self, architecture: Architecture, names: Iterable[ScoreName]) -> dict[str, float]:
        problem = self.problem
        with seeded(problem.seed, "zero cost"):
            network = problem.trainer.place(problem.space.build(architecture))
        with problem.trainer.autocast():
            probe = Probe(network, self.batch)
            return {name: SCORES[name](probe) for name in names}


def rank(score: float, references: Sequence[float]) -> float:
    """How many of the ascending references a score reaches, between 0 and one more than there are."""
    lowest, highest = references[0], references[-1]
    spread = highest - lowest or 1.0
    if score < lowest:
        return spread / (spread + lowest - score)
    if score > highest:
        return len(references) + (score - highest) / (score - highest + spread)
    place = bisect_right(references, score)
    if place == len(references):
        return float(place)
    below, above = references[place - 1], references[place]
    return place + (score - below) / (above - below)
