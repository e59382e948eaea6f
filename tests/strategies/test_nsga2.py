import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation
from nas_cli.evaluators.tabular import Tabular
from nas_cli.strategies.nsga2 import Nsga2
from nas_cli.strategy import Problem
from tests.evaluators.test_tabular import TABLE, needs_table
from tests.evaluators.test_tabular import problem as benchmark
from tests.toy import INFO, CountBest, WideToySpace, toy_problem, toy_run


class Sized(WideToySpace):
    """A hidden layer as wide as the sum of the picks."""

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        return nn.Linear(1 + sum(architecture.picks), 1, bias=False)


class Timed(CountBest):
    """The more picks are `d`, the better and the slower."""

    metrics = ("latency",)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        score = sum(pick == 3 for pick in architecture.picks)
        return Evaluation(float(score), 1.0, {"latency": float(sum(architecture.picks))})


def sized_problem(seed: int = 0) -> Problem:
    return replace(toy_problem(seed), space=Sized(INFO))


def test_the_front_of_all_evaluations_is_written_best_score_first(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        found = Nsga2(sized_problem(), num_evaluations=200).search(run, Timed())
        front = json.loads((tmp_path / "front.json").read_text())
        rows = [(float(str(one["score"])), one["picks"]) for one in run.history()]
    scores = [entry["score"] for entry in front]
    assert scores == sorted(scores, reverse=True)
    assert front[0]["score"] == found.evaluation.score
    for entry in front:
        parameters = entry["objectives"]["parameters"]
        assert parameters == 1 + sum("abcd".index(option) for option in entry["choices"].values())
        assert not any(
            score >= entry["score"] and 1 + sum(picks) < parameters  # type: ignore[arg-type]
            for score, picks in rows
        )


def test_what_the_evaluator_measures_may_be_an_objective(tmp_path: Path) -> None:
    strategy = Nsga2(sized_problem(), num_evaluations=30, objectives=("latency", "score"))
    strategy.check_evaluator(Timed())
    with toy_run(tmp_path) as run:
        strategy.search(run, Timed())
    front = json.loads((tmp_path / "front.json").read_text())
    assert list(front[0]["objectives"]) == ["latency"]


def test_no_network_is_scored_twice() -> None:
    evaluated = Nsga2(sized_problem(), num_evaluations=200).evaluations(Timed())
    assert len({found.architecture for found in evaluated}) == 200


def test_an_objective_that_nobody_measures_is_refused_with_those_there_are() -> None:
    strategy = Nsga2(sized_problem(), objectives=("score", "joules"))
    with pytest.raises(ConfigError, match=r"'joules'.*There are score, parameters, multiply_adds, latency"):
        strategy.check_evaluator(Timed())


@pytest.mark.parametrize("objectives", [("parameters", "multiply_adds"), ("score", "score")])
def test_objectives_without_the_score_or_with_a_name_twice_are_refused(objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must have `score` and no name twice"):
        Nsga2(sized_problem(), objectives=objectives)


@needs_table
def test_a_column_of_a_table_is_measured_where_the_evaluator_is_asked_for_it() -> None:
    evaluator = Tabular(benchmark(), path=str(TABLE), metrics=("latency_ms_raspi4",))
    strategy = Nsga2(benchmark(), num_evaluations=1, objectives=("score", "latency_ms_raspi4"))
    strategy.check_evaluator(evaluator)
    (found,) = strategy.evaluations(evaluator)
    assert found.evaluation.metrics["latency_ms_raspi4"] > 0


@needs_table
def test_a_metric_that_the_table_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no column 'joules'"):
        Tabular(benchmark(), path=str(TABLE), metrics=("joules",))
