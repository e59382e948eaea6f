"""GDAS: what is drawn, what runs, and which gradient comes back."""

import pytest
import torch

from nas_cli.seeds import stream
from nas_cli.strategies.gdas import Gdas, straight_through
from tests.strategies.small import random_batch, small, small_problem
from tests.toy import toy_problem


def test_a_gate_is_exactly_one_hot_at_the_candidate_that_runs() -> None:
    for gate in small(Gdas).gates():
        for row, (pick,) in zip(gate.weights.tolist(), gate.active, strict=True):
            assert row == [float(k == pick) for k in range(5)]


def test_the_gradient_is_the_vector_jacobian_product_of_the_softmax() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=draws, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(3, 5, generator=draws, dtype=torch.float64)
    (actual,) = torch.autograd.grad(straight_through(logits.softmax(-1)), logits, vector)
    probabilities = logits.detach().softmax(-1)
    expected = probabilities * (vector - (probabilities * vector).sum(-1, keepdim=True))
    torch.testing.assert_close(actual, expected)


def test_the_temperature_falls_linearly_from_the_first_to_the_last_epoch() -> None:
    gdas = Gdas(toy_problem(epochs=4), temperature=10.0, final_temperature=1.0)
    temperatures = []
    for epoch in range(4):
        gdas.start_epoch(epoch)
        temperatures.append(gdas.temperature)
    assert temperatures == [10.0, 7.0, 4.0, 1.0]


def test_two_passes_of_a_step_draw_differently_and_a_step_draws_the_same_again() -> None:
    gdas = Gdas(small_problem())
    passes = []
    for _ in range(2):
        gdas.draws = stream(0, "paths", 7)
        passes += [[gate.active for gate in gdas.gates()] for _ in range(2)]
    assert passes[0] != passes[1]
    assert passes[:2] == passes[2:]


def test_candidates_are_drawn_as_often_as_the_softmax_says_at_any_temperature() -> None:
    gdas = Gdas(toy_problem(), temperature=0.5)
    for logits in gdas.logits:
        logits.data = torch.tensor([[0.6, 0.3, 0.1]]).log()
    picks = [gate.active[0][0] for _ in range(1000) for gate in gdas.gates()]
    shares = [picks.count(k) / len(picks) for k in range(3)]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_the_learned_weights_are_the_softmax_without_noise() -> None:
    gdas = Gdas(toy_problem())
    for weights, logits in zip(gdas.gate_weights(), gdas.logits, strict=True):
        torch.testing.assert_close(weights, logits.detach().softmax(-1))


def test_only_the_weights_of_the_drawn_path_get_a_gradient() -> None:
    gdas = small(Gdas)
    (gates,) = gdas.paths()
    batch = random_batch(1)
    gdas.loss(gdas.supernet(batch.images, gates), batch.labels, batch.images).backward()
    run = {(g, r, *active) for g, gate in enumerate(gates) for r, active in enumerate(gate.active)}
    for g, (rows, candidates) in enumerate(gdas.supernet.gate_shapes):
        for r, k in ((r, k) for r in range(rows) for k in range(candidates)):
            modules = gdas.supernet.candidate_modules(g, r, k)
            moved = [w.grad is not None for module in modules for w in module.parameters()]
            assert all(moved) if (g, r, k) in run else not any(moved)


def test_a_draw_that_lets_nothing_of_the_image_through_leaves_the_logits_without_a_slope() -> None:
    gdas = small(Gdas)
    for rows in gdas.logits:
        rows.data[:, 0] = 1e6  # `none` everywhere
    gradients = gdas.gradient(random_batch(1), random_batch(2), gdas.descent)
    assert not any(gradient.any() for gradient in gradients)
