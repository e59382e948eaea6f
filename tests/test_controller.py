"""The controller's distribution, and the gradients that improve it."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from nas_cli.architecture import Architecture, Choice
from nas_cli.controller import (
    Controller,
    ProximalPolicy,
    Reinforce,
    architectures_of,
    clipped_loss,
    reinforce_loss,
)

CHOICES = (Choice("first", ("a", "b", "c")), Choice("second", ("x", "y")))
ALL = torch.tensor(list(itertools.product(range(3), range(2))))
REWARDS = torch.tensor([0.0, 2.0, 1.0, 3.5, 2.0, 4.0])
"""The reward of each row of ALL."""
ONLY_THE_LAST = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def sharp_controller(**settings: float) -> Controller:
    """A controller whose policy is far from uniform."""
    controller = Controller(CHOICES, seed=0, **settings)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(3)
    return controller


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gradient_of(loss: Tensor, controller: Controller) -> Tensor:
    gradients = torch.autograd.grad(loss, list(controller.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


@torch.no_grad()
def probabilities(controller: Controller) -> Tensor:
    """Of each row of ALL."""
    return controller.read(ALL)[0].exp()


@torch.no_grad()
def mean_entropy(controller: Controller) -> float:
    return float(controller.read(ALL)[1].mean())


def reinforce(controller: Controller, entropy_weight: float = 0.0) -> Reinforce:
    return Reinforce(controller, learning_rate=0.01, baseline_decay=0.9, entropy_weight=entropy_weight)


def test_the_probabilities_of_all_architectures_sum_to_one() -> None:
    torch.testing.assert_close(probabilities(sharp_controller()).sum(), torch.tensor(1.0))


def test_samples_come_as_often_as_their_probability_says() -> None:
    controller = sharp_controller()
    picks = controller.sample(generator(), 20_000)
    shares = torch.bincount(picks[:, 0] * 2 + picks[:, 1], minlength=6) / 20_000
    torch.testing.assert_close(shares, probabilities(controller), atol=0.012, rtol=0)


def test_the_second_pick_depends_on_the_first() -> None:
    shares = probabilities(sharp_controller()).view(3, 2)
    given_first = shares[:, 0] / shares.sum(1)
    assert float(given_first.max() - given_first.min()) > 0.001


def test_the_expected_entropy_is_that_of_the_distribution() -> None:
    log_probabilities, entropies = sharp_controller().read(ALL)
    shares = log_probabilities.exp()
    torch.testing.assert_close((shares * entropies).sum(), -(shares * log_probabilities).sum())


def test_a_controller_at_its_start_is_nearly_uniform() -> None:
    controller = Controller(CHOICES, seed=0)
    assert mean_entropy(controller) == pytest.approx(math.log(6), abs=0.02)
    assert float((probabilities(controller) - 1 / 6).abs().max()) < 0.05


def test_the_tanh_bounds_the_logits_and_the_temperature_flattens_them() -> None:
    state = torch.full((1, 100), 5.0)
    plain = sharp_controller()._logits(0, state)
    bounded = sharp_controller(temperature=5.0, tanh_constant=2.5)._logits(0, state)
    torch.testing.assert_close(bounded, 2.5 * torch.tanh(plain / 5))


def test_the_most_likely_architecture_is_the_most_likely() -> None:
    controller = sharp_controller()
    likeliest = ALL[probabilities(controller).argmax()]
    assert [controller.most_likely()] == architectures_of(likeliest[None])


def test_the_same_generator_writes_the_same_architectures() -> None:
    controller = sharp_controller()
    assert torch.equal(controller.sample(generator(), 5), controller.sample(generator(), 5))


def test_making_and_sampling_a_controller_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Controller(CHOICES, seed=0).sample(generator(), 3)
    assert torch.equal(before, torch.get_rng_state())


def test_picks_are_read_as_architectures() -> None:
    assert architectures_of(torch.tensor([[2, 0], [1, 1]])) == [Architecture((2, 0)), Architecture((1, 1))]


def test_the_policy_gradient_of_20000_samples_agrees_with_the_exact_one_to_two_percent() -> None:
    controller = sharp_controller()
    expected_reward = (controller.read(ALL)[0].exp() * REWARDS).sum()
    exact = gradient_of(expected_reward, controller)
    picks = controller.sample(generator(), 20_000)
    advantages = REWARDS[picks[:, 0] * 2 + picks[:, 1]] - expected_reward.detach()
    estimate = -gradient_of(reinforce_loss(controller.read(picks)[0], advantages), controller)
    assert float((estimate - exact).norm() / exact.norm()) < 0.02


def test_the_first_step_of_ppo_is_that_of_reinforce() -> None:
    controller = sharp_controller()
    log_probabilities, _ = controller.read(ALL)
    old = log_probabilities.detach()
    torch.testing.assert_close(
        gradient_of(clipped_loss(log_probabilities, old, REWARDS, clip=0.2), controller),
        gradient_of(reinforce_loss(controller.read(ALL)[0], REWARDS), controller),
    )


def test_ppo_gains_nothing_by_moving_a_probability_beyond_the_clip() -> None:
    moved = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    clipped_loss(moved, torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0]), clip=0.2).backward()
    assert moved.grad is not None
    assert (moved.grad != 0).tolist() == [False, True, True, False]


def test_a_rewarded_architecture_becomes_likelier() -> None:
    controller = Controller(CHOICES, seed=0)
    policy = reinforce(controller)
    for _ in range(20):
        policy.update(ALL, ONLY_THE_LAST)
    assert float(probabilities(controller)[-1]) > 0.5


def test_ppo_learns_more_of_a_batch_than_reinforce() -> None:
    shares = []
    for proximal in (False, True):
        controller = Controller(CHOICES, seed=0)
        policy = reinforce(controller)
        if proximal:
            policy = ProximalPolicy(
                controller, learning_rate=0.01, baseline_decay=0.9, entropy_weight=0.0, clip=0.2, num_epochs=4
            )
        policy.update(ALL, ONLY_THE_LAST)
        shares.append(float(probabilities(controller)[-1]))
    assert shares[1] > shares[0]


def test_the_entropy_bonus_flattens_the_policy() -> None:
    controller = sharp_controller()
    policy, before = reinforce(controller, entropy_weight=1.0), mean_entropy(controller)
    for _ in range(20):
        policy.update(ALL, torch.zeros(6))
    assert mean_entropy(controller) > before


def test_the_unit_of_the_rewards_does_not_matter() -> None:
    weights = []
    for unit in (1.0, 128.0):
        policy = reinforce(Controller(CHOICES, seed=0), entropy_weight=0.1)
        for _ in range(3):
            policy.update(ALL, unit * REWARDS)
        weights.append(policy.controller.embedding.weight)
    torch.testing.assert_close(*weights)


def test_the_baseline_is_a_moving_average_that_starts_at_the_first_reward() -> None:
    policy = reinforce(Controller(CHOICES, seed=0))
    policy.update(ALL[:1], torch.tensor([10.0]))
    policy.update(ALL[:1], torch.tensor([20.0]))
    assert policy.baseline == pytest.approx(0.9 * 10 + 0.1 * 20)


def test_learning_goes_on_from_its_state() -> None:
    policies = [reinforce(Controller(CHOICES, seed=seed)) for seed in (0, 1)]
    policies[0].update(ALL, REWARDS)
    policies[1].load_state_dict(copy.deepcopy(policies[0].state_dict()))
    for policy in policies:
        policy.update(ALL, REWARDS)
    first, second = (policy.controller.embedding.weight for policy in policies)
    assert torch.equal(first, second)
