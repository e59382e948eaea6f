"""What every strategy in conf/strategy owes its users, on a space whose best architecture is known."""

import importlib
import json
import os
import signal
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from nas_cli.config import build
from nas_cli.errors import Interrupted, RunError
from nas_cli.evaluator import Evaluator
from nas_cli.run import Run
from nas_cli.sampling import SamplingStrategy
from nas_cli.strategy import Found, Problem, Strategy
from nas_cli.weight_sharing import WeightSharingStrategy
from tests.toy import (
    BEST,
    INFO,
    WIDE_BEST,
    CountBest,
    ToySpace,
    Uninformative,
    WideToySpace,
    toy_problem,
    toy_run,
)


def samples(name: str) -> bool:
    module, _, class_name = str(OmegaConf.load(CONF / f"{name}.yaml")._target_).rpartition(".")
    return issubclass(getattr(importlib.import_module(module), class_name), SamplingStrategy)


CONF = Path(__file__).parent.parent / "conf" / "strategy"
STRATEGIES = sorted(file.stem for file in CONF.glob("*.yaml"))
SAMPLING = [name for name in STRATEGIES if name != "random" and samples(name)]
"""Those whose control is themselves without information; that of `random` is `random`."""
TUNED = {
    "learning_rate": 0.05,
    "num_evaluations": 60,
    "controller_learning_rate": 3e-3,
    "controller_steps": 15,
    "num_samples": 4,
    "num_candidates": 20,
    "beta_decay": 0.1,
}
"""Settings that let a strategy decide in seconds, for those that have them."""


def make(name: str, problem: Problem, **changes: object) -> Strategy:
    node = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(node, DictConfig)
    for key, value in {**TUNED, **changes}.items():
        if key in node:
            node[key] = value
    return build(Strategy, node, problem)


def search(name: str, folder: Path, seed: int = 0, evaluator: Evaluator | None = None) -> Found:
    with toy_run(folder) as run:
        return make(name, toy_problem(seed)).search(run, evaluator or CountBest())


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_finds_the_planted_optimum(name: str, tmp_path: Path) -> None:
    assert search(name, tmp_path / "run").architecture == BEST


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_finds_the_same(name: str, tmp_path: Path) -> None:
    first, second = (search(name, tmp_path / run, seed=3) for run in ("first", "second"))
    assert first == second
    assert records(tmp_path / "first") == records(tmp_path / "second")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_stopped_in_the_middle_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    whole = search(name, tmp_path / "whole")
    strategy = make(name, toy_problem())
    stop_after(strategy, 7)
    with pytest.raises(Interrupted), toy_run(tmp_path / "cut") as run:
        strategy.search(run, CountBest())
    with Run.resume(tmp_path / "cut", "search") as run:
        resumed = make(name, toy_problem()).search(run, CountBest())
    assert resumed == whole
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


@pytest.mark.parametrize("name", SAMPLING)
def test_it_beats_itself_where_the_scores_teach_nothing(name: str) -> None:
    true = CountBest(WIDE_BEST)
    learning, control = (
        statistics.fmean(best_met_with(name, seed, observed, true) for seed in range(4))
        for observed in (true, Uninformative())
    )
    assert learning > control


def best_met_with(name: str, seed: int, observed: Evaluator, true: Evaluator) -> float:
    """The best true score among the architectures that came to the highest fidelity."""
    problem = replace(toy_problem(seed), space=WideToySpace(INFO))
    strategy = make(name, problem)
    assert isinstance(strategy, SamplingStrategy)
    evaluated = list(strategy.evaluations(observed))
    highest = max(found.fidelity or 0 for found in evaluated)
    return max(
        true.evaluate(found.architecture).score for found in evaluated if (found.fidelity or 0) == highest
    )


def stop_after(strategy: Strategy, count: int) -> None:
    """Send SIGTERM to this process when the strategy is called for the `count`-th time."""
    name = "propose" if isinstance(strategy, SamplingStrategy) else "update_architecture"
    original, calls = getattr(strategy, name), []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    setattr(strategy, name, counted)


def records(folder: Path) -> list[dict[str, object]]:
    """What a run recorded, without what depends on the clock."""
    free = {"seconds", "images_per_second", "memory_mb"}
    lines = [
        json.loads(line)
        for file in ("metrics.jsonl", "history.jsonl")
        if (folder / file).exists()
        for line in (folder / file).read_text().splitlines()
    ]
    assert lines
    return [{key: value for key, value in line.items() if key not in free} for line in lines]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not samples(name)])
def test_a_batch_in_parts_moves_weights_and_architecture_as_the_whole_does(name: str) -> None:
    """The toy supernet has no batch statistics, and its gates are drawn once a step or not at all."""
    states = []
    for accumulate in (1, 2):
        strategy = make(name, toy_problem(accumulate=accumulate))
        assert isinstance(strategy, WeightSharingStrategy)
        strategy.start_epoch(0)
        for step, batches in enumerate(strategy.batches(0, 2)):
            strategy.step(step, *batches)
        states.append(list(strategy.supernet.parameters()))
    for whole, parts in zip(*states, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_a_history_of_other_settings_is_refused(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        run.append_history(
            {"picks": [0, 0, 9], "fidelity": None, "score": 1.0, "seconds": 1.0, "metrics": {}}
        )
    (tmp_path / "status.json").write_text(
        (tmp_path / "status.json").read_text().replace("done", "interrupted")
    )
    with pytest.raises(RunError, match="other settings"), Run.resume(tmp_path, "search") as run:
        make("random", toy_problem()).search(run, CountBest())


def test_the_toy_space_is_a_space_of_27() -> None:
    assert ToySpace(toy_problem().data.info).size == 27
