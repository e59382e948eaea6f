"""DrNAS: the distribution that gates are drawn from, its gradient and its anchor."""

import pytest
import torch

from nas_cli.seeds import stream
from nas_cli.strategies.drnas import DrNas
from tests.toy import toy_problem


def with_parameters(values: list[float], **settings: object) -> DrNas:
    drnas = DrNas(toy_problem(), **settings)  # type: ignore[arg-type]
    for parameter in drnas.logits:
        parameter.data = torch.tensor([values])
    return drnas


def test_the_learned_weights_are_the_mean_of_the_draws() -> None:
    drnas = with_parameters([1.0, 0.0, 2.0])  # concentrations 2, 1 and 3
    torch.testing.assert_close(drnas.weights()[0], torch.tensor([[2 / 6, 1 / 6, 3 / 6]]))
    draws = torch.cat([gate.weights.detach() for _ in range(1000) for gate in drnas.gates()])
    assert draws.mean(0).tolist() == pytest.approx([2 / 6, 1 / 6, 3 / 6], abs=0.02)


def test_the_gradient_through_the_draws_is_that_of_their_mean() -> None:
    drnas = with_parameters([1.0, 0.0, 2.0])
    first = torch.stack([gate.weights[0, 0] for _ in range(2000) for gate in drnas.gates()]).mean()
    gradients = torch.autograd.grad(first, drnas.logits)
    # of 2 / 6 by each concentration: (6 - 2) / 36, then -2 / 36 twice
    assert torch.stack(gradients).sum(0)[0].tolist() == pytest.approx([4 / 36, -2 / 36, -2 / 36], abs=0.01)


def test_a_step_draws_the_same_again_and_its_passes_differ() -> None:
    drnas = DrNas(toy_problem())
    draws = []
    for _ in range(2):
        drnas.draws = stream(0, "paths", 7)
        draws += [drnas.gates()[0].weights, drnas.gates()[0].weights]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    DrNas(toy_problem()).gates()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_regulariser_is_half_the_squared_distance_to_ones() -> None:
    drnas = with_parameters([1.0, 0.0, 2.0], scale=0.1)
    assert drnas.regulariser().item() == pytest.approx(0.1 * 3 * 0.5 * (1 + 4))


def test_the_other_regulariser_is_the_divergence_from_the_uniform_distribution() -> None:
    drnas = with_parameters([1.0, 0.0, 0.0], scale=1.0, regulariser="kl")
    # concentrations 2, 1, 1: log(3! / 2!) + digamma(2) - digamma(4) = log 3 - 1/2 - 1/3
    assert drnas.regulariser().item() == pytest.approx(3 * (1.0986123 - 5 / 6))
