"""A search or a retrain that is killed at any moment goes on and ends as if nothing had happened."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.faults import finish, nas, records

SEARCH = [
    "search",
    "space=nasbench201",
    "space.num_cells=1",
    "space.channels=4",
    "recipe=smoke",
    "recipe.epochs=8",
    "recipe.steps_per_epoch=4",
    "trainer.device=cpu",
]
RETRAIN = ["retrain", "genotype=darts_v2", "space.num_cells=3", "space.channels=4", *SEARCH[4:]]
METRICS = "metrics.jsonl"


def working_seconds(folder: Path) -> float:
    return float(json.loads((folder / "status.json").read_text())["seconds"])


def run_and_kill(words: list[str], folder: Path, delay: float) -> bool:
    """Kill -9 so many seconds after the run folder is there; whether the run was still going."""
    process = nas(*words, f"hydra.run.dir={folder}")
    while not (folder / "status.json").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def check_kills(words: list[str], folder: Path, tries: int) -> Path:
    """Kill `tries` runs at seeded moments, resume each, compare with one that was left alone."""
    finish(nas(*words, f"hydra.run.dir={folder / 'whole'}"))
    seconds, draws, killed = working_seconds(folder / "whole"), random.Random(0), 0
    for attempt in range(tries):
        cut = folder / f"cut-{attempt}"
        killed += run_and_kill(words, cut, draws.uniform(0.0, 0.9 * seconds))
        if json.loads((cut / "status.json").read_text())["status"] != "done":
            finish(nas(words[0], "--resume", str(cut)))
        assert records(cut / METRICS) == records(folder / "whole" / METRICS)
    assert killed > tries / 2
    return folder / "whole"


def genotype(folder: Path) -> object:
    return json.loads((folder / "genotype.json").read_text())["choices"]


@pytest.mark.slow
def test_a_killed_search_ends_in_the_same_genotype(tmp_path: Path) -> None:
    whole = check_kills(SEARCH, tmp_path, tries=10)
    for attempt in range(10):
        assert genotype(tmp_path / f"cut-{attempt}") == genotype(whole)


@pytest.mark.slow
def test_a_killed_retrain_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = check_kills(RETRAIN, tmp_path, tries=3)
    expected = torch.load(whole / "model.pt", weights_only=True)["weights"]
    for attempt in range(3):
        weights = torch.load(tmp_path / f"cut-{attempt}" / "model.pt", weights_only=True)["weights"]
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_prints_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "run"
    process = nas(*SEARCH, "recipe.epochs=500", f"hydra.run.dir={folder}")
    while not (folder / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert f"nas search --resume {folder}" in output
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    assert (folder / "checkpoint.pt").exists()
