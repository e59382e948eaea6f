"""Evolution on predicted scores: what is scored, in which order, and what is found."""

from dataclasses import replace

import pytest

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategies.predicted_evolution import PredictedEvolution
from nas_cli.strategy import Found
from tests.toy import INFO, WIDE_BEST, CountBest, WideToySpace, toy_problem


def make(seed: int = 0, *, samples: int = 40, predictions: int = 300) -> PredictedEvolution:
    problem = replace(toy_problem(seed), space=WideToySpace(INFO))
    evolution = Evolution(problem, num_evaluations=predictions, population_size=20, tournament_size=5)
    return PredictedEvolution(problem, evolution, predictor_samples=samples, num_finalists=5)


def scored(strategy: PredictedEvolution) -> list[Found]:
    return list(strategy.evaluations(CountBest(WIDE_BEST)))


def test_samples_are_scored_first_and_then_the_finalists() -> None:
    found = scored(make())
    assert len(found) == 45
    samples, finalists = found[:40], found[40:]
    assert len({each.architecture for each in finalists} - {each.architecture for each in samples}) == 5


def test_the_finalists_are_better_than_the_best_sample() -> None:
    found = scored(make())
    best_sample = max(each.evaluation.score for each in found[:40])
    assert max(each.evaluation.score for each in found[40:]) > best_sample


def test_a_space_that_is_all_scored_is_searched_to_its_end() -> None:
    problem = toy_problem()
    evolution = Evolution(problem, num_evaluations=100, population_size=20, tournament_size=5)
    strategy = PredictedEvolution(problem, evolution, predictor_samples=200, num_finalists=3)
    found = list(strategy.evaluations(CountBest()))
    assert [each.architecture for each in found[200:]] == [Architecture((2, 2, 2))] * 3


def test_the_same_seed_scores_the_same() -> None:
    assert scored(make(seed=1)) == scored(make(seed=1))
    assert scored(make(seed=1)) != scored(make(seed=2))


def test_too_few_samples_for_a_predictor_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.predictor_samples=3 .* fewer than the 5"):
        make(samples=3)
