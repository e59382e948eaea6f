"""The loop of the sampling strategies: what it finds, and what it needs no folder for."""

from pathlib import Path

import pytest

from nas_cli.architecture import Architecture
from nas_cli.errors import UnsupportedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategy import Found, Proposal, SamplingStrategy, better
from tests.toy import CountBest, toy_problem, toy_run

SCORES = {None: 1.0, 1: 90.0, 4: 60.0}


class OfTheFidelity(Evaluator):
    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        return Evaluation(SCORES[fidelity], seconds=1.0)


class Twice(SamplingStrategy):
    """Scores one architecture at 1, another at 4 epochs."""

    fidelities = (1, 4)

    def propose(self) -> Proposal:
        self.count = getattr(self, "count", -1) + 1
        return Proposal(Architecture((self.count,) * 3), self.fidelities[self.count])


def test_what_is_found_is_of_the_highest_fidelity(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        found = Twice(toy_problem(), num_evaluations=2).search(run, OfTheFidelity())
    assert found == Found(Architecture((1, 1, 1)), Evaluation(60.0, 1.0), fidelity=4)


def test_of_two_equal_scores_the_first_is_found() -> None:
    first, second = (Found(Architecture((pick,)), Evaluation(0.5, 1.0)) for pick in (0, 1))
    assert better(first, second) is first


def test_the_evaluations_without_a_folder_are_those_of_a_run(tmp_path: Path) -> None:
    evaluated = list(RandomSearch(toy_problem(), num_evaluations=5).evaluations(CountBest()))
    with toy_run(tmp_path) as run:
        RandomSearch(toy_problem(), num_evaluations=5).search(run, CountBest())
        assert [record["picks"] for record in run.history()] == [
            list(e.architecture.picks) for e in evaluated
        ]


def test_an_evaluator_of_one_fidelity_refuses_a_strategy_of_several() -> None:
    with pytest.raises(UnsupportedError, match=r"1 epochs, and evaluator=OfTheFidelity has one alone"):
        Twice(toy_problem()).check_evaluator(OfTheFidelity())
