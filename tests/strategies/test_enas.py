"""What is particular to ENAS: two phases an epoch, and what the controller learns in the second."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_cli.data import Batch
from nas_cli.strategies.enas import Enas
from nas_cli.training import run_epochs
from tests.strategies.small import thrifty_problem
from tests.toy import BEST, CountBest, toy_problem, toy_run

WEIGHT_STEPS = 2
"""Steps of the weights in an epoch of the toy problem: 32 images in batches of 16."""


def enas(seed: int = 0, **settings: object) -> Enas:
    return Enas(toy_problem(seed, epochs=6), **{"controller_steps": 3, **settings})  # type: ignore[arg-type]


def state(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def changes(strategy: Enas, steps: range) -> list[tuple[bool, bool]]:
    """For each step whether the shared weights and whether the controller changed."""
    strategy.start_epoch(0)
    result = []
    for step, batches in zip(steps, strategy.batches(steps.start, steps.stop), strict=True):
        before = state(strategy.supernet), state(strategy.controller)
        strategy.step(step, *batches)
        after = state(strategy.supernet), state(strategy.controller)
        result.append((not torch.equal(before[0], after[0]), not torch.equal(before[1], after[1])))
    return result


def test_an_epoch_trains_the_weights_and_then_the_controller() -> None:
    assert changes(enas(), range(5)) == [(True, False)] * WEIGHT_STEPS + [(False, True)] * 3


@pytest.mark.parametrize("first", range(5, 11))
def test_the_batches_from_the_middle_of_an_epoch_are_those_of_the_whole(first: int) -> None:
    whole, rest = list(enas().batches(5, 10)), list(enas().batches(first, 10))
    assert len(whole) == 5
    assert len(rest) == 10 - first
    for (expected,), (batch,) in zip(whole[first - 5 :], rest, strict=True):
        assert torch.equal(batch.images, expected.images)


def test_each_phase_goes_on_with_the_batches_where_it_stopped() -> None:
    strategy = enas()
    batches = [batch.images for (batch,) in [*strategy.batches(0, 5), *strategy.batches(5, 10)]]
    train = [strategy.train_data.batch(step).images for step in range(4)]
    valid = [strategy.valid_data.batch(step).images for step in range(6)]
    expected = [*train[:2], *valid[:3], *train[2:], *valid[3:]]
    assert all(torch.equal(images, other) for images, other in zip(batches, expected, strict=True))


def test_the_learning_rate_of_the_weights_counts_their_steps_alone() -> None:
    strategy = enas()
    run_epochs(strategy)
    recipe = strategy.problem.recipe
    assert strategy.descent.learning_rate == recipe.learning_rate_at(11, WEIGHT_STEPS, 6 * WEIGHT_STEPS)


def test_the_reward_is_the_share_of_images_that_a_path_gets_right() -> None:
    strategy = enas()
    with torch.no_grad():
        strategy.supernet.classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]))  # type: ignore[union-attr,operator]
        strategy.supernet.classifier.bias.copy_(torch.tensor([0.1, 0.0]))  # type: ignore[union-attr,operator]
    images = torch.tensor([1.0, 1.0, 1.0, -1.0]).view(4, 1, 1, 1)
    batch = Batch(images, torch.tensor([1, 1, 0, 0]))
    rewards = strategy.rewards(torch.tensor([[2, 2, 2], [0, 2, 2]]), batch)
    assert rewards.tolist() == [0.75, 0.5]


def test_the_gradients_of_several_samples_are_averaged() -> None:
    gradients = []
    for num_samples in (1, 4):
        strategy = enas(num_samples=num_samples, temperature=1e-6, tanh_constant=None)  # one path, always
        strategy.descent.step = lambda loss, step: None  # type: ignore[method-assign]
        strategy.train_weights(strategy.train_data.batch(0), 0)
        gradients.append(strategy.supernet.classifier.weight.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1])


def probability_of_the_best(seed: int, **settings: object) -> float:
    strategy = enas(seed, controller_steps=30, num_samples=4, **settings)
    run_epochs(strategy)
    with torch.no_grad():
        return float(strategy.controller.read(torch.tensor([BEST.picks]))[0].exp())


def test_the_best_architecture_becomes_likelier_than_without_learning() -> None:
    learned = sum(probability_of_the_best(seed, controller_learning_rate=5e-3) for seed in range(3)) / 3
    control = probability_of_the_best(0, controller_learning_rate=1e-9)
    assert learned > 3 * control


def test_candidates_are_distinct_and_go_into_the_history(tmp_path: Path) -> None:
    strategy = enas(num_candidates=40)
    with toy_run(tmp_path) as run:
        found = strategy.derive(run, CountBest())
        picks = [tuple(record["picks"]) for record in run.history()]  # type: ignore[arg-type]
    assert found == BEST
    assert BEST.picks in picks
    assert len(set(picks)) == len(picks) > 10


def test_the_record_of_an_epoch_tells_the_entropy_and_the_likeliest_architecture() -> None:
    strategy = enas()
    figures = strategy.end_epoch(0)
    assert 3.2 < float(str(figures["controller_entropy"])) < 3.3  # three choices of three: 3.296 at most
    assert figures["choices"] == strategy.problem.space.options_of(strategy.controller.most_likely())


def test_candidates_keep_to_the_budget() -> None:
    problem = thrifty_problem()
    candidates = Enas(problem, num_candidates=5).candidates()
    assert len(set(candidates)) == 5
    assert all(problem.allows(architecture) for architecture in candidates)
