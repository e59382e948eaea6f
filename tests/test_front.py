import numpy as np

from nas_cli.front import hypervolume, pareto_indices, survivors

COSTS = [(1.0, 2.0), (2.0, 1.0), (2.0, 2.0), (1.0, 3.0)]


def test_the_front_is_what_no_other_row_dominates() -> None:
    assert pareto_indices(COSTS) == [0, 1]


def test_equal_rows_are_on_the_front_together() -> None:
    assert pareto_indices([*COSTS, (1.0, 2.0)]) == [0, 1, 4]


def test_the_hypervolume_of_two_overlapping_rectangles_counts_the_overlap_once() -> None:
    assert hypervolume(COSTS, (3.0, 3.0)) == 3.0


def test_what_is_worse_than_the_reference_adds_no_volume() -> None:
    assert hypervolume([(1.0, 2.0), (0.0, 9.0)], (3.0, 3.0)) == 2.0


def test_the_first_front_survives_whole_before_the_second() -> None:
    rows_of_rank = [(rank, row) for row, rank in survivors(COSTS, 3, seed=0)]
    assert sorted(rows_of_rank)[:2] == [(0, 0), (0, 1)]
    assert rows_of_rank[2][0] == 1


def test_of_one_front_the_crowded_middle_does_not_survive() -> None:
    line = [(0, 10), (1, 8), (2, 2), (2, 2), (2, 2), (9, 1), (10, 0)]
    kept = {row for row, _ in survivors(line, 6, seed=0)}
    assert {0, 1, 5, 6} < kept
    assert len(kept) == 6


def test_an_outlier_does_not_change_who_survives() -> None:
    near, far = ([(-score, 0), (1, 9), (2, 8), (3, 3), (4, 3), (5, 0)] for score in (1, 1e6))
    assert survivors(near, 4, seed=0) == survivors(far, 4, seed=0)


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(1)
    survivors([(1.0, 1.0)] * 6, 3, seed=0)
    after = np.random.random()
    np.random.seed(1)
    assert after == np.random.random()
