"""What only a GPU can show; skipped without one."""

from pathlib import Path

import pytest
import torch

from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.trainer import Trainer
from tests.toy import BEST, CountBest, toy_problem, toy_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


def test_a_search_on_the_gpu_finds_the_planted_optimum(tmp_path: Path) -> None:
    toy, trainer = toy_problem(), Trainer(device="cuda")
    data = toy.data.to(trainer.device)
    problem = Problem(toy.space, data, toy.recipe, trainer, toy.supernet, seed=0)
    with toy_run(tmp_path) as run:
        assert Darts(problem, learning_rate=0.2).search(run, CountBest()).architecture == BEST
