"""A search of days must not grow: memory after the warm-up is memory at the end."""

import gc
from functools import partial
from pathlib import Path

import psutil
import pytest

from nas_cli.architecture import Architecture
from nas_cli.config import build
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.sampling import SamplingStrategy
from nas_cli.space import SearchSpace
from nas_cli.strategies.darts import Darts
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs
from tests.test_executors import count_best, wide_problem
from tests.test_pairs import INFO, node_of
from tests.toy import toy_images

MOST_MB = 20.0


def memory_mb() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


class Watching(Evaluator):
    """Notes the memory after a thousand evaluations."""

    def __init__(self) -> None:
        self.inner, self.count, self.before = count_best(), 0, 0.0

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        self.count += 1
        if self.count == 1000:
            self.before = memory_mb()
        return self.inner.evaluate(architecture, fidelity)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [RandomSearch, partial(Evolution, population_size=50)])
def test_ten_thousand_evaluations_do_not_grow(strategy: type[SamplingStrategy], tmp_path: Path) -> None:
    evaluator = Watching()
    with Run.create(tmp_path / "run", "search", {"seed": 0}) as run:
        strategy(wide_problem(), num_evaluations=11_000).search(run, evaluator)
    assert evaluator.count == 11_000
    assert memory_mb() - evaluator.before < MOST_MB


@pytest.mark.slow
def test_two_thousand_steps_do_not_grow(tmp_path: Path) -> None:
    problem = Problem(
        space=build(SearchSpace, node_of("space", "nasbench201", {"channels": 2, "num_cells": 1}), INFO),
        data=toy_images(),
        recipe=Recipe(epochs=22, steps_per_epoch=100, batch_size=8),
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=0,
    )
    memory = []

    class Watched(Darts):
        def start_epoch(self, epoch: int) -> None:
            super().start_epoch(epoch)
            memory.append(memory_mb())

    with Run.create(tmp_path / "run", "search", {"seed": 0}) as run:
        run_epochs(Watched(problem), run, "search")
    assert len(memory) == 22
    assert memory_mb() - memory[2] < MOST_MB
