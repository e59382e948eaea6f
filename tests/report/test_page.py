"""What a page says, and that nothing of a user's can become part of its markup."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nas_cli.architecture import Json
from nas_cli.cli import main
from nas_cli.errors import Interrupted, TrainingError
from nas_cli.report import write_report
from nas_cli.report.page import report_after
from nas_cli.run import Run
from tests.report.runs import make_gradient_search, make_search

HOSTILE = 'mine.<script>alert("1")</script>&<img src=x onerror=alert(2)>'


def page(folder: Path) -> str:
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def headline(text: str) -> str:
    found = re.search("<h1>(.*)</h1>", text)
    assert found is not None
    return found[1]


def evaluations(*scores: float) -> list[dict[str, Json]]:
    return [
        {
            "picks": [k % 5, 0, 0, 0, 0, 1],
            "fidelity": None,
            "score": score,
            "seconds": 0.0,
            "metrics": {"ms": 9 - k},
        }
        for k, score in enumerate(scores)
    ]


def test_a_page_begins_with_the_result_in_one_sentence(tmp_path: Path) -> None:
    assert headline(page(make_search(tmp_path / "run", score=87.654))).startswith(
        "Darts searched NasBench201 on Digits for "
    )
    assert "and found a network with a score of 87.65 %. How good it is" in page(tmp_path / "run")


def test_a_page_is_one_file_without_script_or_anything_from_elsewhere(tmp_path: Path) -> None:
    text = page(make_gradient_search(tmp_path / "run"))
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "http" not in re.sub(r'http-equiv|data:[^"]*', "", text)
    assert "default-src 'none'" in text


def test_a_hostile_class_name_is_text(tmp_path: Path) -> None:
    text = page(make_search(tmp_path / "run", strategy=HOSTILE, settings={"<b>key</b>": "</pre><script>"}))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<b>key" not in text
    assert "&lt;script&gt;" in text


def test_a_hostile_folder_metric_and_candidate_are_text(tmp_path: Path) -> None:
    folder = make_gradient_search(tmp_path / "a<script>b")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "<script>_loss": 1.0}\n')
    Run.open(folder).write_json(
        "gates.json", {"rows": [["<script>.a", "b"]], "candidates": [["<script>", '"><script>']]}
    )
    assert "<script" not in page(folder)


def test_every_chart_is_well_formed_and_named(tmp_path: Path) -> None:
    charts = re.findall(r"<svg class=.*?</svg>", page(make_gradient_search(tmp_path / "run")), re.DOTALL)
    names = [ElementTree.fromstring(chart).attrib["aria-label"] for chart in charts]
    assert names == [
        "loss",
        "accuracy",
        "gate_entropy",
        "normal: mean weight of each candidate",
        "skip connections",
        "normal 0-1",
        "normal 0-2",
        "time",
        "seconds an epoch",
    ]


def test_a_long_search_is_drawn_with_sixty_epochs_of_gates(tmp_path: Path) -> None:
    text = page(make_gradient_search(tmp_path / "run", epochs=200))
    assert text.count('class="touch"') == 60
    assert len(text) < 200_000


def test_the_front_of_a_history_is_what_nothing_cheaper_beats(tmp_path: Path) -> None:
    text = page(make_search(tmp_path / "run", history=evaluations(50.0, 70.0, 60.0)))  # 9, 8 and 7 ms
    chart = re.search(r'<svg class="chart"[^>]*aria-label="score \(%\) against ms".*?</svg>', text, re.DOTALL)
    assert chart is not None
    assert re.findall(r"Pareto front: ([\d.]+)<", chart[0]) == ["60", "70"]


def test_scores_of_lower_fidelity_are_not_on_the_front(tmp_path: Path) -> None:
    history = evaluations(99.0, 70.0, 60.0)
    for line, fidelity in zip(history, (1, 9, 9), strict=True):
        line["fidelity"] = fidelity
    text = page(make_search(tmp_path / "run", history=history))
    assert re.findall(r"Pareto front: ([\d.]+)<", text) == ["60", "70"]


def test_a_stopped_run_says_how_far_it_came_and_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted), Run.create(folder, "search", {"seed": 0}):
        raise Interrupted("stop", 2)
    text = page(folder)
    assert headline(text).startswith("This search was stopped after")
    assert f"nas search --resume {folder}" in text


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError), Run.create(tmp_path / "run", "retrain", {"seed": 0}):
        raise TrainingError("The loss is nan.")
    assert headline(page(tmp_path / "run")).endswith("The loss is nan.")


def test_the_command_that_reproduces_a_run_is_what_the_user_gave(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "run")
    (folder / ".hydra").mkdir()
    (folder / ".hydra/overrides.yaml").write_text(
        "- seed=1\n- evaluator.path='/a b/t.npz'\n- dataset=genotype\n"
    )
    (folder / ".hydra/hydra.yaml").write_text(
        "hydra: {job: {config_name: own},"
        " runtime: {config_sources: [{provider: command-line, path: /mine}]}}\n"
    )
    command = "nas search --config-name own --config-dir /mine seed=1 'evaluator.path=/a b/t.npz'"
    write_report(folder, ["md"])
    assert command in (folder / "report.md").read_text()


def test_a_page_that_cannot_be_made_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report_after(tmp_path / "nothing")
    assert "No report was written" in caplog.text


def test_nas_report_writes_the_formats_it_is_asked_for(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "run")
    assert main(["report", str(folder), "--format", "md,csv"]) == 0
    assert "| score | 90 % |" in (folder / "report.md").read_text()
    with (folder / "report.csv").open() as file:
        assert [row["score"] for row in csv.DictReader(file)] == ["90.0"]
    assert not (folder / "report.html").exists()


def test_nas_report_takes_the_latest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_search(Path("outputs/search/one"))
    assert main(["report"]) == 0
    assert Path("outputs/search/one/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--format", "pdf"], "--format pdf: must be one of html, md, csv"),
        (["nowhere"], "There is no run folder nowhere"),
        (["empty"], "empty is no run folder and holds none"),
        (["run", "--output", "there"], "--output there: the report of one run"),
    ],
)
def test_what_nas_report_refuses_is_said(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_search(Path("run"))
    Path("empty").mkdir()
    assert main(["report", *words]) == 2
    assert said in capsys.readouterr().err
