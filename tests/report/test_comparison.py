"""Groups, means and the test of a difference, with figures that scipy and a table of t confirm."""

import csv
from pathlib import Path

import pytest

from nas_cli.architecture import Json
from nas_cli.cli import main
from nas_cli.report.comparison import Group, differences, groups_of, names_of
from nas_cli.report.record import RunRecord
from tests.report.runs import KIND, make_search


def group(name: str, *scores: float) -> Group:
    return Group(name, "search", "%", scores, len(scores))


def records(folder: Path, *runs: tuple[str, dict[str, Json], int, float]) -> list[RunRecord]:
    return [
        RunRecord.read(make_search(folder / str(k), strategy=kind, settings=settings, seed=seed, score=score))
        for k, (kind, settings, seed, score) in enumerate(runs)
    ]


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path: Path) -> None:
    runs = records(
        tmp_path, (KIND, {"order": 1}, 0, 90.0), (KIND, {"order": 1}, 1, 92.0), (KIND, {"order": 2}, 0, 80.0)
    )
    found = groups_of(runs)
    assert [(one.name, one.scores) for one in found] == [
        ("strategy.order=1", (90.0, 92.0)),
        ("strategy.order=2", (80.0,)),
    ]
    assert found[0].mean == 91.0
    assert found[0].deviation == pytest.approx(2**0.5)
    assert found[1].deviation is None


def test_a_class_stands_for_the_settings_that_come_with_it(tmp_path: Path) -> None:
    runs = records(
        tmp_path,
        (KIND, {"order": 1}, 0, 90.0),
        (KIND, {"order": 2}, 0, 90.0),
        ("nas_cli.strategies.random_search.RandomSearch", {"num_evaluations": 9}, 0, 90.0),
    )
    assert names_of(runs) == [
        "strategy=Darts, strategy.order=1",
        "strategy=Darts, strategy.order=2",
        "strategy=RandomSearch",
    ]


def test_the_difference_is_tested_by_welch() -> None:
    (found,) = differences([group("a", 93.0, 94.0, 95.0), group("b", 90.0, 91.0, 92.0)])
    assert found.difference == 3.0
    assert found.p == pytest.approx(0.0213, abs=1e-4)  # t = 3.674 with 4 degrees of freedom
    assert found.interval == pytest.approx((0.733, 5.267), abs=1e-3)
    assert found.verdict == "more than chance would give"


def test_several_comparisons_are_corrected_by_holm() -> None:
    best, near, far = group("a", 93.0, 94.0, 95.0), group("b", 90.0, 91.0, 92.0), group("c", 50.0, 51.0, 52.0)
    first, second = differences([best, near, far])
    assert first.p == pytest.approx(0.0213, abs=1e-4)  # the weaker one of two keeps its p
    assert second.p is not None
    assert second.p == pytest.approx(2 * 7.781e-07, rel=0.02)
    assert first.verdict.endswith("(p corrected for 2 comparisons by Holm)")


def test_too_few_runs_are_not_tested() -> None:
    (found,) = differences([group("a", 93.0, 94.0), group("b", 90.0, 91.0, 92.0)])
    assert found.p is None
    assert found.verdict == "too few runs to tell: n = 2, and at least 3 seeds of each are needed"


def test_groups_without_spread_are_not_tested() -> None:
    (found,) = differences([group("a", 93.0, 93.0, 93.0), group("b", 90.0, 90.0, 90.0)])
    assert found.verdict == "no spread in either group, so there is nothing to test"


def test_runs_of_two_commands_are_not_compared() -> None:
    training = Group("b", "retrain", "%", (90.0, 91.0, 92.0), 3)
    assert differences([group("a", 93.0, 94.0, 95.0), training]) == []


def test_a_sweep_folder_is_compared_in_all_formats(tmp_path: Path) -> None:
    records(tmp_path, (KIND, {"order": 1}, 0, 90.0), (KIND, {"order": 2}, 0, 80.0))
    assert main(["report", str(tmp_path), "--format", "html,md,csv"]) == 0
    assert "| strategy.order=1 | search | 90 % |  | 1 |" in (tmp_path / "report.md").read_text()
    with (tmp_path / "report.csv").open() as file:
        assert [(row["group"], row["score"]) for row in csv.DictReader(file)] == [
            ("strategy.order=1", "90.0"),
            ("strategy.order=2", "80.0"),
        ]
    text = (tmp_path / "report.html").read_text()
    assert "10 ahead of strategy.order=2" in text
    assert "too few runs to tell" in text


def test_a_hostile_class_name_is_text_in_a_comparison(tmp_path: Path) -> None:
    records(tmp_path, ("m.<script>x</script>", {}, 0, 90.0), (KIND, {}, 0, 80.0))
    assert main(["report", str(tmp_path), "--format", "html,md"]) == 0
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert "<script" not in (tmp_path / "report.md").read_text()


def test_runs_without_a_score_are_counted_and_not_averaged(tmp_path: Path) -> None:
    runs = records(tmp_path, (KIND, {}, 0, 90.0), (KIND, {}, 1, 80.0))
    (runs[1].folder / "genotype.json").unlink()
    (found,) = groups_of([RunRecord.read(run.folder) for run in runs])
    assert (found.scores, found.runs) == ((90.0,), 2)


def test_several_runs_are_compared_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records(Path("runs"), (KIND, {}, 0, 90.0), (KIND, {}, 1, 80.0))
    assert main(["report", "runs/0", "runs/1"]) == 0
    assert main(["report", "runs/0", "runs/1", "--output", "there"]) == 0
    assert len(list(Path("outputs/report").glob("*/report.html"))) == 1
    assert Path("there/report.html").is_file()
