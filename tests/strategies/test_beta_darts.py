"""Beta-DARTS: the decay of the gate weights."""

import pytest
import torch

from nas_cli.strategies.beta_darts import BetaDarts
from tests.toy import toy_problem


def test_the_decay_is_the_mean_logsumexp_of_the_rows() -> None:
    beta_darts = BetaDarts(toy_problem(epochs=4), beta_decay=8.0)
    for logits, total in zip(beta_darts.logits, (1.0, 2.0, 6.0), strict=True):
        logits.data = torch.tensor([[0.5, 0.25, 0.25]]).log() + total  # logsumexp is the total
    beta_darts.start_epoch(3)
    assert beta_darts.regulariser().item() == pytest.approx(8.0 * 3 / 4 * (1 + 2 + 6) / 3)


def test_the_decay_rises_linearly_from_nothing() -> None:
    beta_darts = BetaDarts(toy_problem(epochs=4), beta_decay=8.0)
    decays = []
    for epoch in range(4):
        beta_darts.start_epoch(epoch)
        decays.append(beta_darts.decay)
    assert decays == [0.0, 2.0, 4.0, 6.0]


def test_the_decay_pulls_a_logit_by_its_softmax() -> None:
    beta_darts = BetaDarts(toy_problem(epochs=2), beta_decay=6.0)
    beta_darts.start_epoch(1)
    beta_darts.logits[0].data = torch.tensor([[0.5, 0.3, 0.2]]).log()
    (gradient,) = torch.autograd.grad(beta_darts.regulariser(), beta_darts.logits[0])
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.3, 0.2]]))  # 6 * 1/2 over three rows
