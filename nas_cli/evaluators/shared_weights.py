"""The score of an architecture with the weights of a trained supernet."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nas_cli.architecture import Architecture
from nas_cli.data import Batches, ImageInfo, Part, stratified
from nas_cli.errors import ConfigError, RunError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.network_training import accuracy, scoring
from nas_cli.recipe import Count
from nas_cli.rehearsal import Piece
from nas_cli.run import Run, find_run
from nas_cli.seeds import stream
from nas_cli.strategy import Problem
from nas_cli.supernet import Form, Supernet

INFERENCE_BATCH = 4
"""Without gradients a batch of so many training batches takes no more memory, and less time."""


class SharedWeights(Evaluator):
    """Cuts the architecture's path out of a supernet and scores it on the architecture's part of the images.

    The batch statistics of a path are not those of the supernet, so they are measured again on
    `recalibration_batches` batches of the weights' part (arXiv:1904.00420). `max_images` scores on so many
    images in the classes' proportions, always the same. `run` names the search that trained the supernet,
    whose seed and recipe then say which images its weights have not seen; a strategy that shares weights
    brings its own.

    The first evaluation takes the supernet as trained: the scores of networks that were scored before, in
    whatever spelling, and the recalibration batches are kept.
    """

    def __init__(
        self,
        problem: Problem,
        supernet: Supernet | None = None,
        *,
        run: str | None = None,
        recalibration_batches: Count = 10,
        max_images: Count | None = None,
    ) -> None:
        if supernet is not None and run is not None:
            raise ConfigError(
                f"evaluator.run={run}: this strategy trains its own supernet. Leave evaluator.run out."
            )
        self.problem = problem
        self.recalibration_batches = recalibration_batches
        info, recipe = problem.data.info, problem.recipe
        weights_share, split_seed = recipe.weights_share, problem.seed
        if supernet is None:
            search = _search_of(run, info)
            supernet = _trained_supernet(problem, search)
            settings = cast(Mapping[str, float], search.settings("recipe"))
            weights_share, split_seed = settings["weights_share"], search.seed
        self.supernet = supernet
        weights_part, score_part = problem.data.split(weights_share, split_seed)
        self.score_part = _limited(score_part, max_images, split_seed)
        self.batches = Batches(
            weights_part,
            info,
            batch_size=recipe.batch_size,
            seed=problem.seed,
            augmentation=recipe.augmentation(info),
            whole=True,
        )
        self.scores: dict[Architecture, float] = {}

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.perf_counter()
        network = self.problem.space.canonical(architecture)
        if network not in self.scores:
            self.scores[network] = self._score(network)
        return Evaluation(self.scores[network], time.perf_counter() - started)

    def pieces(self, architecture: Architecture, evaluations: Mapping[int | None, float]) -> list[Piece]:
        """The first evaluation takes the supernet as trained, so a copy of this is asked."""
        trainer, times = self.problem.trainer, sum(evaluations.values())
        network, size = trainer.place(self.supernet.cut_out(architecture)), self.problem.recipe.batch_size
        recalibrated = partial(self._recalibrate, network)
        score = scoring(
            network, self.score_part, self.problem.data.info, trainer, INFERENCE_BATCH * size, times=times
        )
        return [Piece("recalibration", times * self.recalibration_batches, size, recalibrated), score]

    def _recalibrate(self, network: nn.Module, num_images: int) -> None:
        trainer = self.problem.trainer
        images = trainer.arrange(self.batches.batch(0)).images[:num_images]
        network.train()
        with torch.inference_mode(), trainer.autocast():
            network(images)

    def network(self, architecture: Architecture) -> nn.Module:
        """The path cut out, with batch statistics of its own."""
        trainer = self.problem.trainer
        network = trainer.place(self.supernet.cut_out(architecture))
        with torch.inference_mode(), trainer.autocast():
            update_bn(self._recalibration_images, network)
        return network

    def _score(self, architecture: Architecture) -> float:
        size, trainer = INFERENCE_BATCH * self.problem.recipe.batch_size, self.problem.trainer
        network = self.network(architecture)
        return accuracy(network, self.score_part, self.problem.data.info, trainer, size)

    @cached_property
    def _recalibration_images(self) -> list[Tensor]:
        arrange = self.problem.trainer.arrange
        return [arrange(batch).images for batch in self.batches.steps(0, self.recalibration_batches)]


def _limited(part: Part, max_images: int | None, seed: int) -> Part:
    if max_images is None or max_images >= len(part):
        return part
    kept, _ = stratified(part.labels.cpu(), max_images, stream(seed, "score"))
    return part.select(kept)


def _search_of(run: str | None, info: ImageInfo) -> Run:
    """The search that trained the supernet, on the same images as this one."""
    if run is None:
        raise ConfigError(
            "evaluator.run= is needed: the folder of the search that trained the supernet, for instance "
            "evaluator.run=outputs/search/<stamp> of a `nas search strategy=darts`."
        )
    search = Run.open(find_run(run, Path("outputs"), "search"))
    if search.read_json("images.json") != info.to_json():
        raise RunError(
            f"evaluator.run={run}: its supernet was trained on other images. "
            "Give this search the same dataset, or name another run."
        )
    return search


def _trained_supernet(problem: Problem, search: Run) -> Supernet:
    saved = search.load_checkpoint() or {}
    work = cast(Mapping[str, object], saved.get("work", {}))
    if "supernet" not in work:
        raise RunError(
            f"evaluator.run={search.folder}: this run holds no supernet. Name a search that shares weights."
        )
    saved_options = cast(Mapping[str, object], work["supernet_options"])
    options = replace(
        problem.supernet,
        partial_channels=cast(int, saved_options["partial_channels"]),
        form=cast(Form | None, saved_options["form"]),
    )
    supernet = problem.trainer.place(problem.space.build_supernet(options))
    try:
        supernet.load_state_dict(cast(Mapping[str, Tensor], work["supernet"]))
    except RuntimeError as error:
        raise RunError(
            f"evaluator.run={search.folder}: its supernet is of another space or of other settings of it. "
            "Give this search the same space.* and supernet.* settings, or name another run."
        ) from error
    return supernet
