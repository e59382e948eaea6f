"""What a genotype brings to `nas retrain`, and what stands above it."""

import json
import sys
from pathlib import Path

import pytest

from nas_cli.cli import main

GENOTYPE = {
    "format": 1,
    "space": {"_target_": "nas_cli.spaces.darts.DartsSpace", "num_cells": 4, "channels": 6, "num_nodes": 2},
    "choices": {},
    "dataset": {"_target_": "nas_cli.datasets.digits.Digits", "limit": 77},
    "found_by": {},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def composed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["retrain", *words, "--cfg", "job"]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    assert not Path("outputs").exists()
    return capsys.readouterr().err


@pytest.fixture
def genotype(tmp_path: Path) -> str:
    file = tmp_path / "a, b = c's (1).json"
    file.write_text(json.dumps(GENOTYPE))
    return file.name


def test_a_genotype_brings_its_space_and_data(capsys: pytest.CaptureFixture[str], genotype: str) -> None:
    text = composed(capsys, f"genotype={genotype}")
    assert "num_cells: 4" in text
    assert "limit: 77" in text


def test_overrides_apply_on_top_of_the_genotype(capsys: pytest.CaptureFixture[str], genotype: str) -> None:
    text = composed(
        capsys, f"genotype={genotype}", "space.num_cells=20", "dataset=npz", "dataset.path=x y.npz"
    )
    assert "num_cells: 20" in text
    assert "channels: 6" in text
    assert "path: x y.npz" in text


def test_an_experiment_applies_on_top_of_the_genotype(
    capsys: pytest.CaptureFixture[str], genotype: str
) -> None:
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/large.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: cifar10\nspace:\n  num_cells: 9\n"
    )
    text = composed(capsys, "-cd", "mine", "experiment=large", f"genotype={genotype}")
    assert "num_cells: 9" in text
    assert "channels: 6" in text
    assert "name: cifar10" in text


def test_another_space_than_the_genotypes_is_refused(
    capsys: pytest.CaptureFixture[str], genotype: str
) -> None:
    text = refused(capsys, "retrain", f"genotype={genotype}", "space=nasbench201", "--cfg", "job")
    assert "names another one" in text


def test_a_text_form_takes_the_users_space(capsys: pytest.CaptureFixture[str]) -> None:
    text = composed(capsys, "genotype=|nor_conv_3x3~0|+|none~0|skip_connect~1|", "space=nasbench201")
    assert "NasBench201" in text


def test_a_genotype_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "genotype=no, file.json" in refused(capsys, "retrain", "genotype=no, file.json")
    assert "nas search" in refused(capsys, "retrain")
    assert "nas search" in refused(capsys, "derive")
