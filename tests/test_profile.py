"""`nas profile` of networks and of whole spaces, and what it says of budgets."""

import json
from collections.abc import Callable
from typing import cast

import pytest

from nas_cli.cli import main

Profile = Callable[..., dict[str, object]]
SMALL = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "batch_size=2"]
LARGEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SMALLEST = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture
def profile(capsys: pytest.CaptureFixture[str]) -> Profile:
    def read(*words: str) -> dict[str, object]:
        assert main(["profile", "--json", *words]) == 0
        content: dict[str, object] = json.loads(capsys.readouterr().out)
        return content

    return read


def test_a_network_is_counted_and_measured(profile: Profile) -> None:
    large, small = (profile(*SMALL, f"genotype={cell}") for cell in (LARGEST, SMALLEST))
    latencies = [cast(dict[str, float], figures["latency_ms"]) for figures in (large, small)]
    assert list(latencies[0]) == ["1", "2"]
    assert latencies[0]["1"] > latencies[1]["1"] > 0
    for name in ("parameters", "multiply_adds", "step_memory_mb", "file_mb"):
        assert cast(float, large[name]) > cast(float, small[name])
    assert cast(float, large["step_memory_mb"]) > cast(float, large["forward_memory_mb"])
    assert (large["device"], large["threads"], large["batch_size"]) == ("cpu", 1, 2)


def test_a_space_is_told_by_the_smallest_the_median_and_the_largest_of_its_samples(profile: Profile) -> None:
    figures = profile(*SMALL, "samples=20")
    assert figures["architectures"] == 15_625
    names = ("smallest", "median", "largest")
    adds = [cast(dict[str, int], figures[name])["multiply_adds"] for name in names]
    assert adds == sorted(set(adds))


@pytest.mark.parametrize(("limit", "met", "part"), [("1e9", True, "20 of 20 samples"), ("1", False, "1: no")])
def test_whether_a_budget_can_be_met_is_said_before_any_training(
    profile: Profile, limit: str, met: bool, part: str
) -> None:
    budget = cast(dict[str, object], profile(*SMALL, "samples=20", f"budget.macs={limit}")["budget"])
    assert budget["met"] is met
    assert part in str(budget["text"])
    assert "multiply-adds" in str(budget["text"])


def test_a_network_keeps_to_a_budget_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", *SMALL, f"genotype={LARGEST}"]
    assert main([*words, "budget.params=1e9"]) == 0
    assert "kept: " in capsys.readouterr().out
    assert main([*words, "budget.params=10"]) == 0
    assert "not kept: " in capsys.readouterr().out


def test_a_number_of_architectures_is_exact_or_a_power_of_ten(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *SMALL, "samples=3"]) == 0
    assert "15,625" in capsys.readouterr().out
    assert main(["profile", "space=darts", "space.num_cells=3", "space.channels=4", "samples=1"]) == 0
    assert " x 10^" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("budget.macs=0", ["budget.macs=0: must be a number above 0"]),
        ("budget.params=3M", ["budget.params=3M", "without a unit"]),
        ("budget.latency_ms=5ms", ["budget.latency_ms=5ms", "in milliseconds"]),
        ("trainer.precision=bf16", ["trainer.precision=fp32"]),
    ],
)
def test_a_wrong_budget_is_refused_with_what_is_allowed(
    capsys: pytest.CaptureFixture[str], word: str, parts: list[str]
) -> None:
    assert main(["profile", *SMALL, word]) == 2
    told = capsys.readouterr().err
    assert [part for part in parts if part not in told] == []
