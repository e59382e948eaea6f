"""What a run tells its tracker, and that none can stop it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nas_cli.architecture import Json
from nas_cli.cli import main
from nas_cli.errors import ConfigError, Interrupted
from nas_cli.extras import require
from nas_cli.run import Run
from nas_cli.tracker import Tracker, flatten

CONFIG: dict[str, Json] = {"seed": 7, "recipe": {"epochs": 2, "nesterov": True}}


class Notebook(Tracker):
    """Notes what it is told, and fails at one of its calls."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.told: list[object] = []

    def _note(self, call: str, *content: object) -> None:
        self.told.append((call, *content))
        if call == self.fails_at:
            raise ConnectionError(f"no {call} today")

    def start(self, folder: Path, command: str, config: Mapping[str, Json], known: str | None) -> str:
        self._note("start", command, known)
        return known or "run 1"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._note("log", dict(figures), step)

    def finish(self, status: str, files: Sequence[Path]) -> None:
        self._note("finish", status, [file.name for file in files])


def search_with(tracker: Tracker, folder: Path) -> None:
    run = Run.create(folder, "search", CONFIG)
    run.follow(tracker)
    with run:
        run.append_metrics({"epoch": 1, "loss": 2.0, "choices": {"a": 1}, "gates": [[[0.5]]]})
        run.append_history({"picks": [0], "score": 90.0, "fidelity": None, "metrics": {"ms": 3.0}})
        run.write_json("genotype.json", {})


def interrupted_after_one(run: Run) -> None:
    run.append_history({"score": 1.0})
    raise Interrupted("stop", 2)


def test_a_tracker_is_told_the_figures_and_what_was_found(tmp_path: Path) -> None:
    notebook = Notebook()
    search_with(notebook, tmp_path / "run")
    assert notebook.told == [
        ("start", "search", None),
        ("log", {"loss": 2.0}, 1),
        ("log", {"score": 90.0, "ms": 3.0}, 1),
        ("finish", "done", ["config.yaml", "environment.json", "genotype.json"]),
    ]


@pytest.mark.parametrize(("call", "heard"), [("start", 1), ("log", 2), ("finish", 4)])
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    call: str, heard: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(fails_at=call)
    search_with(notebook, tmp_path / "run")
    assert len(notebook.told) == heard
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "done"
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "tracker=notebook failed, so the run goes on without it" in warnings[0]
    assert f"ConnectionError: no {call} today" in warnings[0]


def test_a_resumed_run_goes_on_with_what_the_tracker_began(tmp_path: Path) -> None:
    first, second = Notebook(), Notebook()
    run = Run.create(tmp_path / "run", "search", CONFIG)
    run.follow(first)
    with pytest.raises(Interrupted), run:
        interrupted_after_one(run)
    run = Run.resume(tmp_path / "run", "search")
    run.follow(second)
    with run:
        run.append_history({"score": 2.0})
    assert first.told[-1] == ("finish", "interrupted", ["config.yaml", "environment.json"])
    assert second.told[:2] == [("start", "search", "run 1"), ("log", {"score": 2.0}, 2)]


def test_settings_have_full_keys_and_are_spelled_as_in_yaml() -> None:
    flat = flatten({"a": {"b": True, "c": None}, "d": [1, 2], "e": {}})
    assert flat == {"a.b": "true", "a.c": "null", "d": "[1, 2]", "e": "{}"}


def test_a_package_that_is_missing_is_named_with_the_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"pip install 'nas-cli\[no_such_package\]', or leave tracker=no_such out"
    ):
        require("no_such_package", "tracker=no_such")


def test_a_missing_tracker_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if not (Path(part) / "wandb").is_dir()])
    words = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "recipe=smoke", "dataset.limit=60"]
    assert main(["search", *words, "tracker=wandb", "tracker.mode=offline"]) == 2
    assert "pip install 'nas-cli[wandb]'" in capsys.readouterr().err
    assert not Path("outputs").exists()
