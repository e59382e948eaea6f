"""What is particular to reinforcement learning: what it repeats, when it learns, and that it learns."""

import pytest
import torch

from nas_cli.architecture import Architecture
from nas_cli.controller import Controller
from nas_cli.errors import ConfigError
from nas_cli.spaces.nasbench201 import OPERATIONS
from nas_cli.strategies.rl import ReinforcementLearning
from tests.strategies.small import thrifty_problem
from tests.toy import BEST, CountBest, toy_problem


def mean_score_of_the_last(count: int, **settings: object) -> float:
    """Of 60 proposals."""
    strategy = ReinforcementLearning(toy_problem(), **settings)  # type: ignore[arg-type]
    evaluator, scores = CountBest(), []
    for _ in range(60):
        architecture = strategy.propose().architecture
        evaluation = evaluator.evaluate(architecture)
        strategy.observe(architecture, evaluation)
        scores.append(evaluation.score)
    return sum(scores[-count:]) / count


def always(pick: int, controller: Controller) -> None:
    """Let the controller write nothing but that pick."""
    with torch.no_grad():
        for head in controller.heads:
            head.bias[pick] = 100.0  # type: ignore[operator]


def weights(strategy: ReinforcementLearning) -> torch.Tensor:
    return strategy.controller.embedding.weight.detach().clone()


@pytest.mark.parametrize("settings", [{}, {"algorithm": "ppo", "children_per_update": 5}])
def test_it_proposes_better_architectures_than_without_learning(settings: dict[str, object]) -> None:
    learned = mean_score_of_the_last(20, **settings)
    control = mean_score_of_the_last(20, **settings, controller_learning_rate=1e-9)
    assert learned > 0.7
    assert control < 0.5


def test_the_controller_learns_when_all_children_of_an_update_are_scored() -> None:
    strategy = ReinforcementLearning(toy_problem(), children_per_update=3)
    before = weights(strategy)
    for picks in ((0, 0, 0), (1, 1, 1)):
        strategy.observe(Architecture(picks), CountBest().evaluate(Architecture(picks)))
    assert torch.equal(weights(strategy), before)
    strategy.observe(BEST, CountBest().evaluate(BEST))
    assert not torch.equal(weights(strategy), before)


def test_an_architecture_is_not_proposed_twice_while_the_policy_writes_others() -> None:
    strategy, seen = ReinforcementLearning(toy_problem(), controller_learning_rate=1e-9), []
    for _ in range(10):
        architecture = strategy.propose().architecture
        strategy.observe(architecture, CountBest().evaluate(architecture))
        seen.append(architecture)
    assert len(set(seen)) == 10


def test_a_policy_that_writes_one_architecture_only_repeats_it() -> None:
    strategy = ReinforcementLearning(toy_problem())
    always(2, strategy.controller)
    for _ in range(2):
        architecture = strategy.propose().architecture
        assert architecture == BEST
        strategy.observe(architecture, CountBest().evaluate(architecture))


@pytest.mark.parametrize("setting", ["ppo_clip", "ppo_epochs"])
def test_a_setting_of_ppo_is_refused_without_it(setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"strategy.{setting}=2 has no effect.*algorithm=ppo"):
        ReinforcementLearning(toy_problem(), **{setting: 2})  # type: ignore[arg-type]


def test_proposals_keep_to_the_budget() -> None:
    problem = thrifty_problem()
    strategy = ReinforcementLearning(problem)
    proposed = [strategy.propose().architecture for _ in range(10)]
    assert all(problem.allows(architecture) for architecture in proposed)
    assert len(set(proposed)) == 10


def test_a_policy_that_writes_nothing_within_the_budget_gives_way_to_the_space() -> None:
    problem = thrifty_problem()
    strategy = ReinforcementLearning(problem)
    always(OPERATIONS.index("nor_conv_3x3"), strategy.controller)
    assert problem.allows(strategy.propose().architecture)
