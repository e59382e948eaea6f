"""What is particular to one-shot: which paths train the supernet, and the evolution on its weights."""

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from nas_cli.architecture import Architecture, Choice
from nas_cli.errors import ConfigError, Interrupted
from nas_cli.evaluator import Evaluation
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.run import Run
from nas_cli.seeds import stream
from nas_cli.strategies.one_shot import OneShot, fair_paths
from nas_cli.strategy import Found
from nas_cli.supernet import Gate
from tests.toy import INFO, CountBest, ToySpace, toy_problem, toy_run

LOSE = 0


def paths_at(strategy: OneShot, step: int) -> list[list[Gate]]:
    strategy.draws = stream(0, "paths", step)
    return strategy.paths()


def opened(paths: Sequence[Sequence[Gate]]) -> list[list[int]]:
    """The one open candidate of each layer of each path."""
    return [[gate.active[0][0] for gate in gates if len(gate.active[0]) == 1] for gates in paths]


def test_a_uniform_step_opens_one_path() -> None:
    (gates,) = OneShot(toy_problem()).paths()
    assert [gate.active for gate in gates] == [((int(gate.weights[0].argmax()),),) for gate in gates]
    assert all(gate.weights.sum() == 1 for gate in gates)


def test_what_a_uniform_step_draws_depends_on_the_step_alone() -> None:
    first, second = OneShot(toy_problem()), OneShot(toy_problem())
    forwards = [opened(paths_at(first, step)) for step in range(8)]
    backwards = [opened(paths_at(second, step)) for step in reversed(range(8))]
    assert forwards == backwards[::-1]
    assert len({tuple(path) for (path,) in forwards}) > 4


def test_uniform_steps_open_every_path_equally_often() -> None:
    strategy = OneShot(toy_problem())
    drawn = [tuple(opened(paths_at(strategy, step))[0]) for step in range(2700)]
    counts = [drawn.count(path) for path in set(drawn)]
    assert len(counts) == 27
    assert 60 < min(counts) <= max(counts) < 140


def test_a_fair_step_opens_every_option_of_every_layer_once() -> None:
    paths = OneShot(toy_problem(), sampling="fair").paths()
    assert [sorted(layer) for layer in zip(*opened(paths), strict=True)] == [[0, 1, 2]] * 3


def test_a_smaller_choice_goes_round_in_a_fair_step() -> None:
    class Uneven(ToySpace):
        choices = (Choice("five", tuple("abcde")), Choice("two", tuple("ab")), Choice("one", ("a",)))

    for seed in range(20):
        five, two, one = zip(
            *(path.picks for path in fair_paths(Uneven(INFO), random.Random(seed))), strict=True
        )
        assert sorted(five) == [0, 1, 2, 3, 4]
        assert sorted(two) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
        assert sorted(two[:2]) == sorted(two[2:4]) == [0, 1]
        assert one == (0, 0, 0, 0, 0)


def test_a_fair_step_descends_once_on_the_sum_over_its_paths() -> None:
    strategy = OneShot(toy_problem(momentum=0.0, weight_decay=0.0, gradient_clip=0.0), sampling="fair")
    weight = strategy.supernet.get_parameter("classifier.weight")
    before = weight.detach().clone()
    batch = strategy.train_data.batch(0)
    strategy.draws = stream(strategy.problem.seed, "paths", 0)
    total = sum(
        (strategy.loss(strategy.supernet(batch.images, gates), batch.labels, batch.images))
        for gates in strategy.paths()
    )
    assert isinstance(total, torch.Tensor)
    (gradient,) = torch.autograd.grad(total, [weight])
    strategy.step(0, batch, batch)
    torch.testing.assert_close(weight.detach(), before - strategy.descent.learning_rate * gradient)


def test_soft_runs_all_candidates_and_hard_the_greatest() -> None:
    (soft,), (hard,) = (
        OneShot(toy_problem(), sampling="soft").paths(),
        OneShot(toy_problem(), sampling="hard").paths(),
    )
    assert [gate.active for gate in soft] == [((0, 1, 2),)] * 3
    strategy = OneShot(toy_problem(), sampling="hard")
    assert opened([hard]) == [[int(rows.argmax()) for rows in strategy.logits]]


@pytest.mark.parametrize("sampling", ["soft", "hard"])
def test_path_weights_leave_a_candidate_that_loses_the_image(sampling: str) -> None:
    strategy = OneShot(toy_problem(), sampling=sampling, path_learning_rate=0.1)  # type: ignore[arg-type]
    with torch.no_grad():
        strategy.logits[0].copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        for rows in strategy.logits[1:]:
            rows.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
        strategy.supernet.get_parameter("classifier.weight").copy_(torch.tensor([[-1.0], [1.0]]))
    for step in range(20):
        batch = strategy.valid_data.batch(step)
        strategy.update_architecture(batch, batch, strategy.descent)
    weights = strategy.gate_weights()
    assert weights is not None
    assert weights[0].argmax() != LOSE


def test_the_gradient_of_hard_is_that_of_soft_at_the_hard_gates() -> None:
    strategy = OneShot(toy_problem(), sampling="hard")
    gates = strategy._learnt_gates()
    for gate, rows in zip(gates, strategy.logits, strict=True):
        expected = torch.zeros(1, 3)
        expected[0, rows.argmax()] = 1.0
        torch.testing.assert_close(gate.weights.detach(), expected)
        slope = torch.tensor([[1.0, 2.0, -1.0]])
        (through_hard,) = torch.autograd.grad((gate.weights * slope).sum(), [rows])
        (through_soft,) = torch.autograd.grad((rows.softmax(-1) * slope).sum(), [rows])
        torch.testing.assert_close(through_hard, through_soft)


@pytest.mark.parametrize(("sampling", "known"), [("uniform", False), ("fair", False), ("soft", True)])
def test_only_what_learns_path_weights_tells_them(sampling: str, known: bool) -> None:
    strategy = OneShot(toy_problem(), sampling=sampling)  # type: ignore[arg-type]
    assert (strategy.gate_weights() is not None) == (strategy.current() is not None) == known


def test_a_learning_rate_of_path_weights_is_refused_where_none_learn() -> None:
    with pytest.raises(ConfigError, match=r"=0\.1 has no effect on strategy\.sampling=fair"):
        OneShot(toy_problem(), sampling="fair", path_learning_rate=0.1)


def test_a_tournament_above_the_population_is_refused_before_the_training() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.tournament_size=9"):
        OneShot(toy_problem(), population_size=4, tournament_size=9)


class StoppedAt(CountBest):
    """Sends SIGTERM to this process in the evaluation of that number; counts what it scored."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop
        self.scored: list[Architecture] = []

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        self.scored.append(architecture)
        if len(self.scored) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(architecture, fidelity)


def evolve(run: Run, evaluator: CountBest) -> Found:
    return OneShot(toy_problem(), num_evaluations=30).search(run, evaluator)


def test_an_evolution_goes_on_where_it_was_interrupted_and_ends_the_same(tmp_path: Path) -> None:
    with toy_run(tmp_path / "whole") as run:
        whole = evolve(run, CountBest())
    with pytest.raises(Interrupted), toy_run(tmp_path / "cut") as run:
        evolve(run, StoppedAt(12))
    rest = StoppedAt(0)
    with Run.resume(tmp_path / "cut", "search") as run:
        assert evolve(run, rest) == whole
    assert len(rest.scored) == 30 - 12 + 1  # and the one that was found
    for file in ("metrics.jsonl", "history.jsonl"):
        lines = [(tmp_path / name / file).read_text().splitlines() for name in ("cut", "whole")]
        assert len(lines[0]) == len(lines[1])
    assert (tmp_path / "cut/history.jsonl").read_text() == (tmp_path / "whole/history.jsonl").read_text()


def test_scores_are_not_kept_where_the_training_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), toy_run(tmp_path) as run:
        evolve(run, StoppedAt(12))
    for checkpoint in tmp_path.glob("checkpoint*.pt"):
        checkpoint.unlink()
    again = StoppedAt(0)
    with Run.resume(tmp_path, "search") as run:
        evolve(run, again)
    assert len(again.scored) == 30 + 1


@pytest.mark.parametrize("sampling", ["uniform", "fair"])
def test_a_trained_supernet_finds_paths_that_keep_the_image(sampling: str, tmp_path: Path) -> None:
    problem = toy_problem()
    strategy = OneShot(problem, sampling=sampling)  # type: ignore[arg-type]
    with toy_run(tmp_path / "run") as run:
        found = strategy.search(run, SharedWeights(problem, strategy.supernet))
    assert LOSE not in found.architecture.picks
    assert found.evaluation.score == 100.0


def test_an_untrained_supernet_does_not(tmp_path: Path) -> None:
    problem = toy_problem(epochs=1, steps_per_epoch=1, learning_rate=1e-9, final_learning_rate=0.0)
    strategy = OneShot(problem)
    with toy_run(tmp_path / "run") as run:
        found = strategy.search(run, SharedWeights(problem, strategy.supernet))
    assert found.evaluation.score < 60.0
