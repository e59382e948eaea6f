"""The score of an architecture by training it for a short while."""

import copy
import time
from collections.abc import Mapping
from dataclasses import replace

from nas_cli.architecture import Architecture
from nas_cli.errors import DivergedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.network_training import NetworkTraining, accuracy, scoring
from nas_cli.recipe import Count
from nas_cli.rehearsal import Piece, steps_of
from nas_cli.seeds import seeded
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet
from nas_cli.training import run_epochs


class FromScratch(Evaluator):
    """Trains the network of the space's size on the weights' part of the images, scores it on the other.

    The recipe is the search's with `epochs` (or the proposal's fidelity) instead of its own. All
    architectures start from the same seed and see the same batches, so that they differ in nothing else.
    One whose loss does not stay finite scores 0.
    """

    def __init__(self, problem: Problem, supernet: Supernet | None = None, *, epochs: Count = 3) -> None:
        self.problem = problem
        self.epochs = epochs
        self.weights_part, self.score_part = problem.data.split(problem.recipe.weights_share, problem.seed)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.perf_counter()
        problem, training = self.problem, self._training(architecture, fidelity)
        try:
            run_epochs(training)
        except DivergedError as error:
            return Evaluation(0.0, time.perf_counter() - started, failure=str(error))
        size = problem.recipe.batch_size
        score = accuracy(training.trained, self.score_part, problem.data.info, problem.trainer, size)
        return Evaluation(score, time.perf_counter() - started)

    def _training(self, architecture: Architecture, fidelity: int | None) -> NetworkTraining:
        problem, info = self.problem, self.problem.data.info
        recipe = copy.copy(problem.recipe)
        recipe.epochs = fidelity or self.epochs
        with seeded(problem.seed, "from scratch"):
            network = problem.space.build(architecture, auxiliary_head=recipe.auxiliary_weight > 0)
        return NetworkTraining(
            network, self.weights_part, info, recipe=recipe, trainer=problem.trainer, seed=problem.seed
        )

    def pieces(self, architecture: Architecture, evaluations: Mapping[int | None, float]) -> list[Piece]:
        problem, times = self.problem, sum(evaluations.values())
        training = self._training(architecture, None)
        epochs = sum(number * (fidelity or self.epochs) for fidelity, number in evaluations.items())
        steps = [replace(piece, count=epochs * training.steps_per_epoch) for piece in steps_of(training)]
        part, size = self.score_part, problem.recipe.batch_size
        network, info, trainer = training.network, problem.data.info, problem.trainer
        return [*steps, scoring(network, part, info, trainer, size, times=times)]

    def check_fidelity(self, fidelity: int) -> None:
        """Any number of epochs will do."""
