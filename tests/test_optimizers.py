import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, optim

from nas_cli import optimizers

WITHOUT_COMPILER = """
import sys, torch
from nas_cli.optimizers import SGD, Adam
for make in (SGD, Adam):
    weight = torch.ones(2, requires_grad=True)
    optimizer = make([weight], lr=0.5)
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    print(round(weight[0].item(), 4), "torch._dynamo" in sys.modules)
"""


def test_no_compiler_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["0.5 False", "0.5 False"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda weights: optimizers.SGD(weights, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
            lambda weights: optim.SGD(weights, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
        ),
        (
            lambda weights: optimizers.Adam(weights, 0.1, betas=(0.5, 0.999), weight_decay=0.01),
            lambda weights: optim.Adam(weights, 0.1, betas=(0.5, 0.999), weight_decay=0.01),
        ),
    ],
    ids=["SGD", "Adam"],
)
def test_steps_are_torchs(
    ours: Callable[[list[Tensor]], optim.Optimizer], theirs: Callable[[list[Tensor]], optim.Optimizer]
) -> None:
    """The same bits, through what one has kept of its state and the other takes up."""
    first, second = weights(), weights()
    optimizer, reference = ours(first), theirs(second)
    descend(optimizer, first)
    descend(reference, second)
    assert [one.tolist() for one in first] == [one.tolist() for one in second]
    resumed = ours(first)
    resumed.load_state_dict(deepcopy(reference.state_dict()))
    descend(resumed, first)
    descend(reference, second)
    assert [one.tolist() for one in first] == [one.tolist() for one in second]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator, requires_grad=True) for size in ((3, 2), (5,))]


def descend(optimizer: optim.Optimizer, leaves: list[Tensor]) -> None:
    for _ in range(3):
        torch.stack([leaf.square().sum() for leaf in leaves]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
