"""Weights & Biases offline: no network, everything in the run folder."""

from pathlib import Path

import pytest

from nas_cli.cli import main

pytest.importorskip("wandb", reason="wandb is not installed (pip install 'nas-cli[wandb]')")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_search_offline_leaves_a_file_to_synchronise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "recipe=smoke", "dataset.limit=60"]
    words += ["trainer.device=cpu", "preflight=false", "tracker=wandb", "tracker.mode=offline"]
    assert main(["search", *words, "hydra.run.dir=searched"]) == 0
    assert "tracker=wandb failed" not in capsys.readouterr().err
    (saved,) = Path("searched/wandb").glob("offline-run-*/run-*.wandb")
    assert b"train_loss" in saved.read_bytes()
