"""The front that searches with shared weights leave, and what `nas derive` picks of it by a budget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas_cli.architecture import Architecture, Json
from nas_cli.budget import Affordable, Budget
from nas_cli.errors import ConfigError
from nas_cli.strategies.scored_front import FrontOfHistory, Scored, write_front
from nas_cli.strategy import Problem
from tests.strategies.test_nsga2 import Sized, sized_problem
from tests.toy import INFO, WideToySpace, toy_problem, toy_run


def problem_within(budget: Budget) -> Problem:
    return replace(toy_problem(), affordable=Affordable.of(budget, WideToySpace(INFO), INFO))


def picks(*others: int) -> list[Json]:
    return [*others, *[0] * (8 - len(others))]


def test_the_front_is_of_what_nothing_beats_in_score_and_cost(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        for first, score in ((0, 50.0), (1, 70.0), (2, 60.0), (3, 80.0), (3, 80.0)):
            run.append_history(
                {"picks": picks(first), "score": score, "fidelity": None, "seconds": 0.0, "metrics": {}}
            )
        FrontOfHistory(sized_problem(), "parameters").write(run)
    front = json.loads((tmp_path / "front.json").read_text())
    assert [(entry["score"], entry["objectives"]) for entry in front] == [
        (80.0, {"parameters": 4}),
        (70.0, {"parameters": 2}),
        (50.0, {"parameters": 1}),
    ]
    assert "parameters" in (tmp_path / "front.svg").read_text()


def test_the_cost_of_the_front_is_what_the_budget_limits() -> None:
    assert FrontOfHistory(problem_within(Budget(params=1000)), None).cost == "parameters"
    assert FrontOfHistory(problem_within(Budget(macs=1000)), None).cost == "multiply_adds"
    assert FrontOfHistory(sized_problem(), None).cost == "multiply_adds"


def test_a_front_of_latencies_without_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"front_cost=latency_ms needs budget\.latency_ms"):
        FrontOfHistory(sized_problem(), "latency_ms")


def test_several_costs_are_all_counted(tmp_path: Path) -> None:
    def scored(pick: int, **costs: float) -> Scored:
        return Scored(Architecture((pick, *[0] * 7)), 1.0, costs)

    with toy_run(tmp_path) as run:
        write_front(run, Sized(INFO), [scored(k, a=k, b=-k) for k in range(3)])
    assert len(json.loads((tmp_path / "front.json").read_text())) == 3
