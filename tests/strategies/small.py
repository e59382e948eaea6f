"""A gradient strategy on a supernet small enough for exact derivatives."""

from dataclasses import replace
from typing import TypeVar

import torch

from nas_cli.budget import Affordable, Budget
from nas_cli.data import Batch, ImageInfo
from nas_cli.recipe import Recipe
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from tests.toy import toy_images

INFO = ImageInfo(channels=1, size=8, class_names=("a", "b"), mean=(0.5,), std=(0.25,), mirror=True)
Kind = TypeVar("Kind", bound=Darts)


def small_problem(channels: int = 2) -> Problem:
    return Problem(
        space=NasBench201(INFO, num_cells=1, channels=channels),
        data=toy_images(),
        recipe=Recipe(batch_size=8, learning_rate=0.1),
        trainer=Trainer(device="cpu", memory_format="contiguous"),
        supernet=SupernetOptions(),
        seed=0,
    )


def thrifty_problem() -> Problem:
    """About one in five of the space's architectures has no more than 1,448 parameters."""
    problem = small_problem()
    within = Affordable.of(Budget(params=1448), problem.space, INFO)
    return replace(problem, affordable=within)


def small(kind: type[Kind], problem: Problem | None = None, **settings: object) -> Kind:
    """A NAS-Bench-201 supernet of two channels in float64, with momentum in its weights' optimiser."""
    darts = kind(problem or small_problem(), **settings)  # type: ignore[arg-type]
    darts.supernet.double().train()
    draws = torch.Generator().manual_seed(1)
    for logits in darts.logits:
        logits.data = torch.randn(logits.shape, generator=draws, dtype=torch.float64)
    for weight in darts.supernet.parameters():
        buffer = 0.1 * torch.randn(weight.shape, generator=draws, dtype=torch.float64)
        darts.descent.optimizer.state[weight]["momentum_buffer"] = buffer
    return darts


def random_batch(seed: int) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 8, 8, generator=draws, dtype=torch.float64)
    return Batch(images, torch.randint(0, 2, (6,), generator=draws))
