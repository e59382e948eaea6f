"""The score of an architecture by training it for a short while."""

import copy
import time

from nas_cli.architecture import Architecture
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.network_training import NetworkTraining, accuracy
from nas_cli.recipe import Count
from nas_cli.seeds import seeded
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet
from nas_cli.training import run_epochs


class FromScratch(Evaluator):
    """Trains the network of the space's size on the weights' part of the images, scores it on the other.

    The recipe is the search's with `epochs` (or the proposal's fidelity) instead of its own. All
    architectures start from the same seed and see the same batches, so that they differ in nothing else.
    """

    def __init__(self, problem: Problem, supernet: Supernet | None = None, *, epochs: Count = 3) -> None:
        self.problem = problem
        self.epochs = epochs
        self.weights_part, self.score_part = problem.data.split(problem.recipe.weights_share, problem.seed)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.perf_counter()
        problem, info = self.problem, self.problem.data.info
        recipe = copy.copy(problem.recipe)
        recipe.epochs = fidelity or self.epochs
        with seeded(problem.seed, "from scratch"):
            network = problem.space.build(architecture, auxiliary_head=recipe.auxiliary_weight > 0)
        training = NetworkTraining(
            network, self.weights_part, info, recipe=recipe, trainer=problem.trainer, seed=problem.seed
        )
        run_epochs(training)
        score = accuracy(training.trained, self.score_part, info, problem.trainer, recipe.batch_size)
        return Evaluation(score, time.perf_counter() - started)

    def check_fidelity(self, fidelity: int) -> None:
        """Any number of epochs will do."""
