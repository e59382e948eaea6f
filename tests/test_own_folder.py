"""Strategies and spaces in a user's own folder, the example of the documentation among them."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import nas_cli
from nas_cli.cli import main

DOCS = Path(__file__).parent.parent / "docs"
QUICK = ["dataset.limit=100", "trainer.device=cpu", "evaluator=from_scratch", "evaluator.epochs=1"]

SPACE = '''
from typing import Annotated
from pydantic import Field
from torch import nn
from nas_cli.architecture import Choice
from nas_cli.errors import UnsupportedError
from nas_cli.space import CellGraph, SearchSpace

class Widths(SearchSpace):
    """How wide one hidden layer is."""

    choices = (Choice("width", (2, 4, 8)),)

    def __init__(self, info, *, depth: Annotated[int, Field(ge=1)] = 1) -> None:
        self.info, self.depth = info, depth

    def build(self, architecture, *, auxiliary_head=False):
        width = self.options_of(architecture)["width"]
        hidden = [nn.Conv2d(self.info.channels, width, 3), nn.ReLU()]
        hidden += [nn.Conv2d(width, width, 1), nn.ReLU()] * (self.depth - 1)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*hidden, *pool, nn.Linear(width, self.info.num_classes))

    def build_supernet(self, options):
        raise UnsupportedError("Widths share no weights; use strategy=random.")

    def cells(self, architecture):
        return {"network": CellGraph(("images",), (("images", "0", "convolution"),), ("0",))}
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "mine", sys)  # so that teardown takes away what a test imports
    del sys.modules["mine"]


def write_blocks(page: str) -> str:
    """Write the files that a page shows under the names in their first line; returns its `nas` command."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    for kind, text in blocks:
        if kind in ("python", "yaml"):
            file = Path(text.removeprefix("# ").split("\n")[0].split(":")[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    command: str = next(text for kind, text in blocks if text.startswith("nas "))
    return command


def test_the_documented_strategy_searches_as_the_page_says() -> None:
    nas, *words = shlex.split(write_blocks("add-a-strategy.md"))
    assert nas == "nas"
    tiny = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "strategy.num_evaluations=4"]
    assert main([*words, *tiny, *QUICK, "hydra.run.dir=run"]) == 0
    genotype = json.loads(Path("run/genotype.json").read_text())
    assert genotype["found_by"]["strategy"] == "HillClimbing"
    history = [json.loads(line) for line in Path("run/history.jsonl").read_text().splitlines()]
    changed = [one != other for one, other in zip(history[0]["picks"], history[1]["picks"], strict=True)]
    assert (len(history), sum(changed)) == (4, 1)


def test_a_setting_of_the_documented_strategy_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    _, *words = shlex.split(write_blocks("add-a-strategy.md"))
    assert main([*words, "strategy.seed_offset=much"]) == 2
    assert "strategy.seed_offset=much" in capsys.readouterr().err


def test_a_space_of_the_users_own_is_searched_retrained_and_loaded() -> None:
    Path("own/space").mkdir(parents=True)
    Path("own/mine.py").write_text(SPACE)
    Path("own/space/mine.yaml").write_text("# Widths of one layer\n_target_: mine.Widths\ndepth: 1\n")
    own = ["--config-dir", "own", "recipe=smoke"]
    words = ["space=mine", "strategy=random", "strategy.num_evaluations=2", *QUICK, "hydra.run.dir=run"]
    assert main(["search", *own, *words]) == 0
    assert main(["derive", "--config-dir", "own", "run=run", "hydra.run.dir=derived"]) == 0
    words = ["genotype=run/genotype.json", "space.depth=2", *QUICK[:2], "hydra.run.dir=retrained"]
    assert main(["retrain", *own, *words]) == 0
    assert nas_cli.load("retrained").genotype.space == {"_target_": "mine.Widths", "depth": 2}


def test_a_space_of_the_users_own_says_what_works_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own/space").mkdir(parents=True)
    Path("own/mine.py").write_text(SPACE)
    Path("own/space/mine.yaml").write_text("_target_: mine.Widths\ndepth: 1\n")
    assert main(["search", "--config-dir", "own", "recipe=smoke", "space=mine", "strategy=darts"]) == 2
    assert "use strategy=random" in capsys.readouterr().err
