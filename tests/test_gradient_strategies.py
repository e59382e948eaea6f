"""What every strategy whose gates are learned owes its users: that it is the learning that finds."""

from pathlib import Path

import pytest

from nas_cli.weight_sharing import WeightSharingStrategy
from tests.test_strategies import STRATEGIES, make
from tests.toy import BEST, CountBest, toy_problem, toy_run


def gradient_strategy(name: str, seed: int, **changes: object) -> WeightSharingStrategy | None:
    """None where nothing of the gates is learned, or not at a learning rate."""
    strategy = make(name, toy_problem(seed), **changes)
    learns = isinstance(strategy, WeightSharingStrategy) and strategy.gate_weights() is not None
    return strategy if learns and isinstance(strategy, WeightSharingStrategy) else None


GRADIENT_STRATEGIES = [name for name in STRATEGIES if gradient_strategy(name, seed=0)]


def weight_of_the_best(name: str, folder: Path, **changes: object) -> list[float]:
    """The mean share of the planted optimum's candidates in their gates, one a seed."""
    shares = []
    for seed in range(3):
        strategy = gradient_strategy(name, seed, **changes)
        assert strategy is not None
        with toy_run(folder / str(seed)) as run:
            strategy.search(run, CountBest())
        gates = strategy.gate_weights()
        assert gates is not None
        rows = [rows[0] / rows[0].sum() for rows in gates]
        shares.append(sum(float(row[pick]) for row, pick in zip(rows, BEST.picks, strict=True)) / len(rows))
    return shares


def test_the_heirs_of_darts_are_found() -> None:
    assert {"darts", "gdas", "pc_darts", "drnas", "beta_darts", "darts_es"} <= set(GRADIENT_STRATEGIES)


@pytest.mark.parametrize("name", GRADIENT_STRATEGIES)
def test_it_beats_itself_with_learning_switched_off(name: str, tmp_path: Path) -> None:
    learned = weight_of_the_best(name, tmp_path / "learned")
    control = weight_of_the_best(name, tmp_path / "control", learning_rate=1e-9)
    assert control == pytest.approx([1 / 3] * 3, abs=0.01)
    assert min(learned) > 0.5
