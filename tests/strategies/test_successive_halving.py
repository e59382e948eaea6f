from collections import Counter
from dataclasses import replace

import pytest

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluators.tabular import Tabular
from nas_cli.strategies.successive_halving import SuccessiveHalving
from nas_cli.strategy import Found
from tests.evaluators.test_tabular import TABLE, needs_table
from tests.evaluators.test_tabular import problem as benchmark
from tests.toy import INFO, WIDE_BEST, CountBest, WideToySpace, toy_problem


def bracket(**settings: int) -> list[Found]:
    problem = replace(toy_problem(), space=WideToySpace(INFO))
    return list(SuccessiveHalving(problem, **settings).evaluations(CountBest(WIDE_BEST)))


def test_a_bracket_of_nine_scores_nine_then_three_then_one() -> None:
    assert [found.fidelity for found in bracket()] == [1] * 9 + [3] * 3 + [9]


def test_the_best_third_goes_on() -> None:
    evaluated = bracket()
    scores = sorted((found.evaluation.score for found in evaluated[:9]), reverse=True)
    assert [found.evaluation.score for found in evaluated[9:12]] == scores[:3]
    assert evaluated[12].architecture == evaluated[9].architecture


def test_the_last_rung_is_at_the_highest_fidelity_itself() -> None:
    fidelities = Counter(found.fidelity for found in bracket(max_fidelity=20, num_architectures=27))
    assert fidelities == {1: 27, 3: 9, 9: 3, 20: 1}


def test_the_next_bracket_begins_with_other_architectures() -> None:
    evaluated = bracket(num_evaluations=26)
    sampled: list[Architecture] = [found.architecture for found in evaluated if found.fidelity == 1]
    assert len(set(sampled)) == len(sampled) == 18


def test_fidelities_without_a_difference_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_fidelity=9 is not below strategy.max_fidelity=9"):
        SuccessiveHalving(toy_problem(), min_fidelity=9)


@needs_table
def test_a_fidelity_that_the_table_lacks_is_refused_before_any_work() -> None:
    evaluator = Tabular(benchmark(), path=str(TABLE))
    with pytest.raises(
        ConfigError, match=r"no column c10_val1, which a fidelity of 1 epochs needs.*c10_val12, c10_val200"
    ):
        SuccessiveHalving(benchmark()).check_evaluator(evaluator)
