"""Peak memory of tensors, counted while the work is done."""

import torch
from torch import nn

from nas_cli.memory import bytes_of, peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_of_what_lives_at_the_same_time() -> None:
    def work() -> None:
        one = torch.zeros(1000)
        del one
        two, three = torch.zeros(500), torch.ones(250)
        del two, three

    assert peak_bytes(work, CPU) == 4000


def test_views_and_what_was_there_before_cost_nothing() -> None:
    before = torch.zeros(100, 100)
    assert peak_bytes(lambda: before.add_(1).view(-1)[:50].t(), CPU) == 0


def test_the_backward_pass_counts() -> None:
    layer, x = nn.Linear(1000, 10, bias=False), torch.zeros(1, 1000)
    assert peak_bytes(lambda: layer(x).sum().backward(), CPU) >= 4 * 10 * 1000
    layer.zero_grad()
    with torch.no_grad():
        assert peak_bytes(lambda: layer(x), CPU) == 4 * 10


def test_shared_parameters_are_held_once() -> None:
    layer = nn.Linear(10, 10)
    assert bytes_of(nn.Sequential(layer, layer)) == 4 * 110
    assert bytes_of(nn.BatchNorm1d(5)) == 4 * 20 + 8
