from dataclasses import replace
from itertools import pairwise

from nas_cli.architecture import Architecture
from nas_cli.strategies.local_search import LocalSearch
from tests.toy import INFO, WIDE_BEST, CountBest, WideToySpace, toy_problem

SCORER = CountBest(WIDE_BEST)


def scored(seed: int = 0, **settings: object) -> list[tuple[Architecture, float]]:
    problem = replace(toy_problem(seed), space=WideToySpace(INFO))
    strategy = LocalSearch(problem, num_evaluations=150, **settings)  # type: ignore[arg-type]
    return [(found.architecture, found.evaluation.score) for found in strategy.evaluations(SCORER)]


def distance(one: Architecture, other: Architecture) -> int:
    return sum(a != b for a, b in zip(one.picks, other.picks, strict=True))


def test_all_neighbours_of_the_start_are_scored_before_it_moves_to_the_best() -> None:
    start, *others = scored(move="best")
    first, second = others[:24], others[24:34]
    assert {distance(start[0], one) for one, _ in first} == {1}
    highest = max(score for _, score in first)
    best = [one for one, score in first if score == highest]
    assert any(all(distance(one, other) == 1 for other, _ in second) for one in best)


def test_it_moves_to_the_first_better_neighbour_at_once() -> None:
    evaluated = scored(move="first")
    current = evaluated[0]
    for one, score in evaluated[1:40]:
        assert distance(current[0], one) == 1
        current = max(current, (one, score), key=lambda pair: pair[1])


def test_no_network_is_scored_twice() -> None:
    evaluated = [one for one, _ in scored(move="first")]
    assert len(set(evaluated)) == len(evaluated) == 150


def test_at_a_local_optimum_it_starts_anew() -> None:
    evaluated = [one for one, _ in scored(move="first")]
    optimum = evaluated.index(WIDE_BEST)
    jumps = [k for k, (one, other) in enumerate(pairwise(evaluated)) if distance(one, other) > 2]
    assert jumps
    assert min(jumps) > optimum
