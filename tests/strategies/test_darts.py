"""What is particular to DARTS: its gradients."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas_cli.data import Batch
from nas_cli.errors import ConfigError
from nas_cli.recipe import Recipe
from nas_cli.strategies.darts import Darts, virtual_step
from nas_cli.supernet import Gate, SupernetOptions
from nas_cli.training import Descent
from tests.strategies.small import random_batch, small, small_problem
from tests.toy import toy_problem


def small_darts(**settings: object) -> Darts:
    return small(Darts, None, **settings)


def unrolled_loss(darts: Darts, logits: list[Tensor], train: Batch, valid: Batch) -> float:
    """Equation 6 of the paper, written out: the validation loss after one step of the weights."""
    gates = [Gate.soft(rows.softmax(-1)) for rows in logits]
    weights = dict(darts.supernet.named_parameters())
    loss = nn.functional.cross_entropy(darts.supernet(train.images, gates), train.labels)
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    moved: dict[str, Tensor] = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        buffer = cast(Tensor, darts.descent.optimizer.state[weight]["momentum_buffer"])
        slope = torch.zeros_like(weight) if gradient is None else gradient
        moved[name] = (weight - 0.1 * (0.9 * buffer + slope + 3e-4 * weight)).detach()
    output = functional_call(darts.supernet, moved, (valid.images, gates))
    return float(nn.functional.cross_entropy(output, valid.labels))


def central_differences(darts: Darts, train: Batch, valid: Batch) -> list[Tensor]:
    base = [rows.detach().clone() for rows in darts.logits]
    gradients = [torch.zeros_like(rows) for rows in base]
    for rows, gradient in zip(base, gradients, strict=True):
        for index in range(rows.numel()):
            losses = []
            for shift in (1e-5, -1e-5):
                rows.view(-1)[index] += shift
                losses.append(unrolled_loss(darts, base, train, valid))
                rows.view(-1)[index] -= shift
            gradient.view(-1)[index] = (losses[0] - losses[1]) / 2e-5
    return gradients


def relative_difference(first: list[Tensor], second: list[Tensor]) -> float:
    one, other = torch.cat([rows.flatten() for rows in first]), torch.cat([rows.flatten() for rows in second])
    return float((one - other).norm() / other.norm())


@pytest.fixture(name="expected")
def expected_gradient() -> list[Tensor]:
    return central_differences(small_darts(), random_batch(1), random_batch(2))


def test_the_exact_second_order_gradient_is_that_of_the_unrolled_loss(expected: list[Tensor]) -> None:
    darts = small_darts(order=2, hessian="exact")
    gradient = darts.gradient(random_batch(1), random_batch(2), darts.descent)
    assert relative_difference(list(gradient), expected) < 1e-4


def test_finite_differences_come_close_to_the_unrolled_loss(expected: list[Tensor]) -> None:
    darts = small_darts(order=2, hessian="finite_differences", finite_difference_step=1e-7)
    gradient = darts.gradient(random_batch(1), random_batch(2), darts.descent)
    assert relative_difference(list(gradient), expected) < 1e-3


@pytest.mark.parametrize(
    "settings", [{"order": 1}, {"order": 2}, {"order": 2, "hessian": "finite_differences"}], ids=str
)
def test_checkpoints_change_no_gradient_and_no_statistics(settings: dict[str, object]) -> None:
    problem = replace(small_problem(), supernet=SupernetOptions(checkpoint=True))
    darts, checkpointed = small(Darts, None, **settings), small(Darts, problem, **settings)
    gradients, others = (
        one.gradient(random_batch(1), random_batch(2), one.descent) for one in (darts, checkpointed)
    )
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient, atol=1e-12, rtol=1e-9)
    statistics = dict(checkpointed.supernet.named_buffers())
    for name, expected in darts.supernet.named_buffers():
        torch.testing.assert_close(statistics[name], expected, atol=1e-12, rtol=1e-12)


def test_the_gradient_of_a_batch_in_parts_is_the_mean_of_theirs() -> None:
    problem = small_problem()
    problem.recipe.accumulate = 2
    halves = small_darts()
    valid = random_batch(2)
    whole = small(Darts, problem).gradient(random_batch(1), valid, halves.descent)
    parts = [Batch(valid.images[part], valid.labels[part]) for part in (slice(3), slice(3, 6))]
    gradients = [halves.gradient(random_batch(1), part, halves.descent) for part in parts]
    for gradient, first, second in zip(whole, *gradients, strict=True):
        torch.testing.assert_close(gradient, (first + second) / 2, atol=1e-12, rtol=1e-12)


def test_second_order_takes_no_parts() -> None:
    with pytest.raises(ConfigError, match=r"recipe.accumulate=2: strategy.order=2"):
        Darts(toy_problem(accumulate=2), order=2)


def test_the_first_order_gradient_is_not_that_of_the_unrolled_loss(expected: list[Tensor]) -> None:
    darts = small_darts(order=1)
    gradient = darts.gradient(random_batch(1), random_batch(2), darts.descent)
    assert relative_difference(list(gradient), expected) > 0.01


def test_the_architecture_step_leaves_no_gradient_on_the_weights() -> None:
    darts = small_darts(order=1)
    darts.gradient(random_batch(1), random_batch(2), darts.descent)
    assert all(weight.grad is None and weight.requires_grad for weight in darts.supernet.parameters())


def test_the_regulariser_is_part_of_what_the_architecture_descends_on() -> None:
    darts, pulled = small_darts(), small(Pulled)
    plain, regularised = (
        strategy.gradient(random_batch(1), random_batch(2), strategy.descent) for strategy in (darts, pulled)
    )
    for own, other in zip(regularised, plain, strict=True):
        torch.testing.assert_close(own, other + 3)


class Pulled(Darts):
    def regulariser(self) -> Tensor:
        return 3 * torch.stack([logits.sum() for logits in self.logits]).sum()


def test_the_architecture_rests_while_the_weights_warm_up() -> None:
    darts = small_darts(warmup_epochs=1)
    before = [rows.detach().clone() for rows in darts.logits]
    darts.start_epoch(0)
    darts.update_architecture(random_batch(1), random_batch(2), darts.descent)
    assert all(torch.equal(rows, old) for rows, old in zip(darts.logits, before, strict=True))


def test_a_warm_up_of_the_whole_search_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs=3 leaves none of recipe\.epochs=3"):
        Darts(toy_problem(epochs=3), warmup_epochs=3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_virtual_step_is_the_one_that_the_optimiser_takes(nesterov: bool) -> None:
    weight, recipe = nn.Parameter(torch.tensor([1.0, -2.0])), Recipe(nesterov=nesterov, gradient_clip=0.0)
    descent = Descent([weight], recipe, epochs=1, steps_per_epoch=10)
    for step in range(3):
        gradient = torch.tensor([0.5, 2.0]) * (step + 1)
        virtual = virtual_step({"weight": weight}, [gradient], descent)["weight"].detach()
        loss = (gradient * weight).sum()
        loss.backward()
        descent.step(loss, step)
        torch.testing.assert_close(weight.detach(), virtual)
