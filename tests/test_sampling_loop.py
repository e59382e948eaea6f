"""The loop of the sampling strategies: what it finds, and what it needs no folder for."""

from pathlib import Path

import pytest

from nas_cli.architecture import Architecture
from nas_cli.errors import TrainingError, UnsupportedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.sampling import Proposal, SamplingStrategy, better
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategy import Found
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


class Diverges(CountBest):
    """What it is told fails."""

    def __init__(self, *failing: int) -> None:
        super().__init__()
        self.count, self.failing = -1, failing

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        self.count += 1
        if self.count in self.failing:
            return Evaluation(0.0, 1.0, failure="The loss is nan. Lower recipe.learning_rate.")
        return super().evaluate(architecture, fidelity)


def test_an_architecture_that_cannot_be_trained_scores_0_and_is_told_of(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        found = RandomSearch(toy_problem(), num_evaluations=5).search(run, Diverges(0, 1, 4))
        records = run.history()
    assert not found.evaluation.failure
    assert [place for place, record in enumerate(records) if "failure" in record] == [0, 1, 4]
    assert [records[place]["score"] for place in (0, 1, 4)] == [0.0] * 3
    assert (tmp_path / "search.log").read_text().count("Scored 0, since it could not be trained") == 3


def test_what_could_not_be_trained_is_not_trained_again_after_a_resume(tmp_path: Path) -> None:
    evaluated = list(RandomSearch(toy_problem(), num_evaluations=4).evaluations(Diverges(1)))
    with toy_run(tmp_path) as run:
        RandomSearch(toy_problem(), num_evaluations=4).search(run, Diverges(1))
        history = run.history()
    again = list(RandomSearch(toy_problem(), num_evaluations=4).evaluations(Diverges(), history))
    assert [one.evaluation.failure for one in again] == [one.evaluation.failure for one in evaluated]


def test_a_search_ends_where_no_architecture_can_be_trained(tmp_path: Path) -> None:
    evaluator = Diverges(0, 1, 2)
    with (
        pytest.raises(TrainingError, match=r"No architecture .* Lower recipe\.learning_rate"),
        toy_run(tmp_path) as run,
    ):
        RandomSearch(toy_problem(), num_evaluations=5).search(run, evaluator)
    assert evaluator.count == 2
