"""Pareto fronts, ranks and hypervolumes of costs, each of which is to be minimised; computed by pymoo."""

from collections.abc import Sequence

import numpy as np

Costs = Sequence[Sequence[float]]
"""One row an architecture, one column an objective."""


def pareto_indices(costs: Costs) -> list[int]:
    """The rows that no other row is better than or equal to in all columns, equal rows included; in order."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    front = NonDominatedSorting().do(_matrix(costs), only_non_dominated_front=True)
    return sorted(int(row) for row in front)


def hypervolume(costs: Costs, reference: Sequence[float]) -> float:
    """The volume that the rows dominate, bounded by the reference; what is worse than that adds nothing."""
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=np.asarray(reference, dtype=float)).do(_matrix(costs)))


def survivors(costs: Costs, count: int, seed: int) -> list[tuple[int, int]]:
    """NSGA-II's choice of `count` rows, as (row, rank): the best fronts, of the last one the least crowded.

    Crowding distances are of the places in the sorted columns instead of the costs themselves, where a few
    outliers would be the measure of all; ranks are the same. The seed decides between equals.
    """
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    places = np.stack([np.unique(column, return_inverse=True)[1] for column in _matrix(costs).T], axis=1)
    population = Population.new(X=np.arange(len(places))[:, None], F=places)
    chosen = RankAndCrowding().do(
        Problem(n_var=1, n_obj=places.shape[1]),
        population,
        n_survive=count,
        random_state=np.random.default_rng(seed),
    )
    return [(int(one.X[0]), int(one.get("rank"))) for one in chosen]


def _matrix(costs: Costs) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(costs, dtype=np.float64)
