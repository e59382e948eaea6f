"""Latency tables: their sums, their files, and what they are refused for."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_cli.architecture import Architecture
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.latency import LatencyTable, Term, fingerprint_of, measure_table, spread_over
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.supernet import Gate
from nas_cli.timing import Conditions, Timing, measure
from tests.toy import INFO, ToySpace

IMAGES = ImageInfo(channels=3, size=8, class_names=("a", "b"), mean=(0.5,) * 3, std=(0.2,) * 3, mirror=True)
CONDITIONS = Conditions("a processor", "cpu", threads=1, batch_size=2)
TERMS = (
    Term(((0, 0, 1),), 2.0),
    Term(((0, 1, 0),), 4.0),
    Term(((0, 1, 1),), 8.0),
    Term(((1, 0, 0),), 16.0),
    Term(((0, 0, 1), (1, 0, 1)), 32.0),
)
TABLE = LatencyTable(CONDITIONS, "print", 1.0, TERMS)


def small_space(channels: int = 4) -> NasBench201:
    return NasBench201(IMAGES, num_cells=1, channels=channels)


def test_the_expected_latency_is_the_weighted_sum_and_the_fixed_part() -> None:
    weights = [torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[0.75, 0.25]])]
    assert TABLE.expected(weights).item() == 1.0 + 1.0 + 7.0 + 12.0 + 32.0 / 8


def test_the_expected_latency_has_a_gradient_for_every_weight() -> None:
    weights = [torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[1.0, 0.0]])]
    for rows in weights:
        rows.requires_grad_()
    slopes = torch.autograd.grad(TABLE.expected(weights), weights)
    assert [slope.tolist() for slope in slopes] == [[[0.0, 2.0], [4.0, 8.0]], [[16.0, 16.0]]]


def test_the_predicted_latency_is_the_sum_of_what_runs() -> None:
    like = torch.zeros(())
    assert TABLE.predict([Gate.one_hot([1, None], 2, like), Gate.one_hot([0], 2, like)]) == 1.0 + 2.0 + 16.0
    assert (
        TABLE.predict([Gate.one_hot([1, 0], 2, like), Gate.one_hot([1], 2, like)]) == 1.0 + 2.0 + 4.0 + 32.0
    )


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    file.write_text(TABLE.to_json())
    assert LatencyTable.read(file) == TABLE


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', "no json"])
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="nas latency"):
        LatencyTable.read(file)


def test_a_missing_file_and_a_later_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no latency table"):
        LatencyTable.read(tmp_path / "none.json")
    file = tmp_path / "later.json"
    file.write_text(json.dumps(json.loads(TABLE.to_json()) | {"format": 4}))
    with pytest.raises(ConfigError, match="format 4"):
        LatencyTable.read(file)


def test_a_measured_table_has_a_time_for_every_candidate_but_those_that_do_nothing() -> None:
    table, _ = measure_table(small_space(), IMAGES, CONDITIONS, num_networks=2)
    times = {term.picks: term.ms for term in table.terms}
    rows = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    assert set(times) == {((*row, candidate),) for row in rows for candidate in (1, 2, 3, 4)}
    assert 0.0 <= times[(0, 0, 1),] < times[(0, 0, 3),]


def test_a_table_of_another_size_of_the_space_is_refused() -> None:
    table, _ = measure_table(small_space(), IMAGES, CONDITIONS, num_networks=2)
    table.check(small_space(), IMAGES, "latency.json")
    with pytest.raises(ConfigError, match="made for another space, other settings"):
        table.check(small_space(channels=8), IMAGES, "latency.json")


def test_a_table_of_another_machine_is_used_with_a_warning_that_names_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = replace(TABLE, fingerprint=fingerprint_of(small_space(), IMAGES))
    table.check(small_space(), IMAGES, "latency.json")
    assert "latency.json was measured on a processor, and this machine has" in caplog.text
    caplog.clear()
    here = replace(table, conditions=Conditions.here("cpu", threads=1, batch_size=2))
    here.check(small_space(), IMAGES, "latency.json")
    assert not caplog.text


def test_a_table_predicts_networks_that_it_was_not_made_from() -> None:
    space = small_space(channels=16)
    table, timings = measure_table(space, IMAGES, CONDITIONS, num_checks=5)
    predict = table.predictor(space)
    architectures = list(timings)
    assert len(architectures) == 5
    assert predict(architectures[0]) < predict(architectures[-1])
    assert timings[architectures[0]].quickest < timings[architectures[-1]].quickest


def test_architectures_are_spread_evenly_over_the_range_of_a_value() -> None:
    space = small_space()
    chosen = spread_over(space, lambda architecture: float(sum(architecture.picks)), 5, seed=0)
    sums = [sum(architecture.picks) for architecture in chosen]
    assert sums == sorted(set(sums))
    assert max(sums) - min(sums) >= 15
    assert max(after - before for before, after in itertools.pairwise(sums)) <= 6


def test_architectures_that_were_taken_are_not_taken_again() -> None:
    def value(architecture: Architecture) -> float:
        return float(sum(architecture.picks))

    taken = spread_over(small_space(), value, 5, seed=0)
    others = spread_over(small_space(), value, 20, seed=0, without=taken)
    assert len({*taken, *others}) == 25


def test_architectures_are_taken_again_where_there_are_no_others() -> None:
    space = ToySpace(INFO)
    taken = spread_over(space, lambda _: 0.0, 27, seed=0)
    assert len(taken) == 27
    assert len(spread_over(space, lambda _: 0.0, 2, seed=0, without=taken)) == 2


def test_a_timing_has_its_middle_its_quickest_round_and_its_spread() -> None:
    timing = Timing((2.0, 5.0, 4.0))
    assert (timing.median, timing.quickest, timing.spread) == (4.0, 2.0, 0.75)


def test_a_space_whose_candidates_are_no_modules_has_no_table() -> None:
    with pytest.raises(UnsupportedError, match="nothing to time"):
        measure_table(ToySpace(INFO), INFO, CONDITIONS)


def test_the_slower_of_two_calls_takes_longer_and_the_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    small, large = torch.rand(8, 8), torch.rand(256, 256)
    quick, slow = measure([lambda: small @ small, lambda: large @ large], CONDITIONS, seconds=0.01)
    assert 0 < quick.median < slow.median
    assert torch.get_num_threads() == before
