"""The score of an architecture with the weights of a trained supernet."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor
from torch.optim.swa_utils import update_bn

from nas_cli.architecture import Architecture
from nas_cli.data import Batches
from nas_cli.errors import ConfigError, RunError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Count
from nas_cli.run import Run
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet
from nas_cli.training import accuracy


class SharedWeights(Evaluator):
    """Cuts the architecture's path out of a supernet and scores it on the architecture's part of the images.

    The batch statistics of a path are not those of the supernet, so they are measured again on
    `recalibration_batches` batches of the weights' part (arXiv:1904.00420). `run` names the search that
    trained the supernet; a strategy that shares weights brings its own.
    """

    def __init__(
        self,
        problem: Problem,
        supernet: Supernet | None = None,
        *,
        run: str | None = None,
        recalibration_batches: Count = 10,
    ) -> None:
        if supernet is not None and run is not None:
            raise ConfigError(
                f"evaluator.run={run}: this strategy trains its own supernet. Leave evaluator.run out."
            )
        self.problem = problem
        self.recalibration_batches = recalibration_batches
        self.supernet = supernet or _trained_supernet(problem, run)
        weights_part, self.score_part = problem.data.split(problem.recipe.weights_share, problem.seed)
        info, recipe = problem.data.info, problem.recipe
        self.batches = Batches(
            weights_part,
            info,
            batch_size=recipe.batch_size,
            seed=problem.seed,
            augmentation=recipe.augmentation(info),
        )

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.perf_counter()
        trainer = self.problem.trainer
        network = trainer.place(self.supernet.cut_out(architecture))
        batches = self.batches.steps(0, self.recalibration_batches)
        update_bn((trainer.arrange(batch).images for batch in batches), network)
        size = self.problem.recipe.batch_size
        score = accuracy(network, self.score_part, self.problem.data.info, trainer, size)
        return Evaluation(score, time.perf_counter() - started)


def _trained_supernet(problem: Problem, run: str | None) -> Supernet:
    if run is None:
        raise ConfigError(
            "evaluator.run= is needed: the folder of the search that trained the supernet, for instance "
            "evaluator.run=outputs/search/<stamp> of a `nas search strategy=darts`."
        )
    saved = Run.open(Path(run)).load_checkpoint()
    if saved is None:
        raise RunError(
            f"evaluator.run={run}: this search has saved no supernet. Name one that shares weights."
        )
    supernet = problem.trainer.place(problem.space.build_supernet(problem.supernet))
    work = cast(Mapping[str, object], saved["work"])
    try:
        supernet.load_state_dict(cast(Mapping[str, Tensor], work["supernet"]))
    except (KeyError, RuntimeError) as error:
        raise RunError(
            f"evaluator.run={run}: its supernet is of another space or of other settings of it. "
            "Give this search the same space.* and supernet.* settings, or name another run."
        ) from error
    return supernet
