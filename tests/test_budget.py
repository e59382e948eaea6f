"""Budgets: nothing beyond them is proposed or derived, and one that cannot be met is refused."""

import random
from pathlib import Path

import pytest
import torch

from nas_cli.architecture import Architecture
from nas_cli.budget import Affordable, Budget, CostMeter
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.supernet import SupernetOptions

INFO = ImageInfo(channels=3, size=8, class_names=("a", "b"), mean=(0.5,) * 3, std=(0.2,) * 3, mirror=True)
SPACE = NasBench201(INFO, num_cells=1, channels=4)
SMALLEST, LARGEST = (
    Architecture((0,) * 6),
    Architecture((3,) * 6),
)  # none everywhere, 3x3 convolutions everywhere


def parameters_of(architecture: Architecture) -> float:
    return CostMeter(SPACE, INFO).cost("params", architecture)


def affordable(params: float | None = None, macs: float | None = None) -> Affordable:
    found = Affordable.of(Budget(params=params, macs=macs), SPACE, INFO)
    assert found is not None
    return found


def halfway() -> float:
    return (parameters_of(SMALLEST) + parameters_of(LARGEST)) / 2


def test_without_limits_there_is_nothing_to_keep_to() -> None:
    assert Affordable.of(Budget(), SPACE, INFO) is None


def test_samples_and_mutations_keep_to_the_budget() -> None:
    within, rng = affordable(params=halfway()), random.Random(0)
    parent = within.sample(rng)
    for _ in range(30):
        parent = within.mutate(parent, rng)
        assert parameters_of(parent) <= halfway()
        assert parameters_of(within.sample(rng)) <= halfway()


def test_a_tight_budget_is_met_although_hardly_any_sample_meets_it() -> None:
    within = affordable(params=parameters_of(SMALLEST))
    architecture = within.sample(random.Random(0))
    assert parameters_of(architecture) == parameters_of(SMALLEST)
    assert 3 not in architecture.picks


def test_gates_that_want_the_largest_network_get_the_likeliest_one_within_the_budget() -> None:
    supernet = SPACE.build_supernet(SupernetOptions())
    weights = [torch.full(shape, 0.05) for shape in supernet.gate_shapes]
    for rows in weights:
        rows[:, 3] = 0.6
        rows[:, 2] = 0.25
    found = affordable(params=halfway()).nearest(LARGEST, weights, supernet)
    assert parameters_of(found) <= halfway()
    assert set(found.picks) == {2, 3}


def test_a_budget_below_the_smallest_network_is_refused_with_its_size() -> None:
    smallest = parameters_of(SMALLEST)
    with pytest.raises(ConfigError, match=rf"budget.params=10: .*{smallest:,.6g} parameters"):
        affordable(params=10)
    with pytest.raises(ConfigError, match="no network of this space"):
        affordable(macs=1)


def test_a_latency_limit_needs_a_table_and_a_table_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs budget\.latency_table"):
        Budget(latency_ms=3.0)
    with pytest.raises(ConfigError, match=r"without budget\.latency_ms"):
        Budget(latency_table="latency.json")
    with pytest.raises(ConfigError, match="There is no latency table"):
        Affordable.of(Budget(latency_ms=3.0, latency_table=str(tmp_path / "none.json")), SPACE, INFO)
