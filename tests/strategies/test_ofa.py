"""Once-for-All: the teacher, the sorting, the schedule of each phase, and resuming in and between phases."""

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_cli.architecture import Architecture
from nas_cli.budget import Affordable, Budget
from nas_cli.data import Batch
from nas_cli.errors import Interrupted
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.shrinking import Phase
from nas_cli.spaces.macro import MacroSpace
from nas_cli.spaces.mobilenet import ElasticMobileNet, MobileNet
from nas_cli.strategies.ofa import Ofa
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from nas_cli.training import Descent
from tests.toy import INFO, toy_images

PHASES = (
    Phase(opens=(), share=0.25),
    Phase(opens=("kernel",), share=0.25, learning_rate=0.5),
    Phase(opens=("depth",), share=0.25, num_paths=2),
    Phase(opens=("width",), share=0.25, num_paths=3),
)
SMALL = {
    "predictor_samples": 6,
    "num_predictions": 20,
    "num_finalists": 2,
    "population_size": 5,
    "tournament_size": 2,
}
NUM_STEPS = 12
"""Four epochs of three steps; each phase is an epoch."""


def small_space(**settings: tuple[int, ...]) -> MobileNet:
    return MobileNet(
        INFO,
        stem_channels=4,
        first_channels=4,
        stage_channels=(4, 8),
        stage_strides=(1, 2),
        head_channels=16,
        **{"depths": (1, 2), **settings},  # type: ignore[arg-type]
    )


def small_problem(**recipe: float) -> Problem:
    settings = {"epochs": 4, "steps_per_epoch": 3, "batch_size": 8, "learning_rate": 0.1, **recipe}
    return Problem(
        space=small_space(),
        data=toy_images(),
        recipe=Recipe(**settings),  # type: ignore[arg-type]
        trainer=Trainer(device="cpu", memory_format="contiguous"),
        supernet=SupernetOptions(),
        seed=0,
    )


def make(problem: Problem | None = None, phases: tuple[Phase, ...] = PHASES, weight: float = 1.0) -> Ofa:
    ofa = Ofa(problem or small_problem(), phases=phases, distillation_weight=weight, **SMALL)  # type: ignore[arg-type]
    ofa.start_epoch(0)
    return ofa


def train(ofa: Ofa, first: int, last: int) -> None:
    for step, batches in enumerate(ofa.batches(first, last), start=first):
        ofa.step(step, *batches)


def copied(ofa: Ofa) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in ofa.supernet.state_dict().items()}


def parameters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without batch statistics."""
    return {name: tensor for name, tensor in state.items() if "running" not in name and "num_" not in name}


def assert_same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def batch_of(ofa: Ofa, step: int = 0) -> Batch:
    return ofa.train_data.batch(step)


def test_it_asks_for_the_elastic_form() -> None:
    assert isinstance(make().supernet, ElasticMobileNet)


def test_a_step_trains_as_many_sub_networks_as_its_phase_says() -> None:
    ofa = make()
    counts = []
    for step, batches in enumerate(ofa.batches(0, NUM_STEPS)):
        ofa.step(step, *batches)
        counts.append(len(ofa.paths()))
    assert counts == [1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_first_phase_has_no_teacher_and_the_others_have_its_network() -> None:
    ofa = make()
    train(ofa, 0, 3)
    after_first_phase = copied(ofa)
    assert ofa.teacher is None
    train(ofa, 3, NUM_STEPS)
    assert ofa.teacher is not None
    assert_same(parameters(dict(ofa.teacher.state_dict())), parameters(after_first_phase))
    assert not torch.equal(
        ofa.supernet.state_dict()["skeleton.stem.conv.weight"], after_first_phase["skeleton.stem.conv.weight"]
    )


def test_the_teachers_predictions_are_added_to_the_loss() -> None:
    ofa = make(weight=0.5)
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    images = batch_of(ofa).images
    assert ofa.loss(logits, labels, images).item() == pytest.approx(0.3132617)
    train(ofa, 0, 4)
    ofa.taught = images, torch.tensor([[0.25, 0.75]])
    # Cross entropy 0.3132617, and half of the mean of 0.3132617 (a quarter) and 1.3132617.
    assert ofa.loss(logits, labels, images).item() == pytest.approx(0.8448926)


def test_the_teacher_is_the_largest_network_and_asked_once_a_step() -> None:
    ofa = make()
    train(ofa, 0, 7)
    ofa.paths()
    images, labels = batch_of(ofa)
    logits = torch.zeros(len(labels), 2)
    ofa.loss(logits, labels, images)
    taught = ofa.taught
    assert ofa.teacher is not None
    assert taught is not None
    largest = Architecture(tuple(len(choice.options) - 1 for choice in ofa.problem.space.choices))
    with torch.no_grad():
        expected = ofa.teacher(images, ofa.teacher.gates_of(largest)).softmax(1)
    torch.testing.assert_close(taught[1], expected)
    ofa.loss(logits, labels, images)
    assert ofa.taught is taught


def test_the_teacher_is_asked_for_each_part_of_a_batch() -> None:
    ofa = make()
    train(ofa, 0, 7)
    ofa.paths()
    images, labels = batch_of(ofa)
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    first, second = (ofa.loss(logits, labels[part], images[part]) for part in (slice(2), slice(2, 4)))
    ofa.paths()
    assert ofa.loss(logits, labels[2:4], images[2:4]) == second
    assert first != second


def test_without_weight_there_is_no_teacher() -> None:
    ofa = make(weight=0.0)
    train(ofa, 0, NUM_STEPS)
    assert ofa.teacher is None


def is_sorted(ofa: Ofa) -> bool:
    weights = [ofa.supernet.state_dict()[f"stages.{s}.0.project.conv.weight"] for s in (0, 1)]
    sums = [weight.abs().sum((0, 2, 3)) for weight in weights]
    return all(torch.equal(each, each.sort(descending=True).values) for each in sums)


def test_channels_are_sorted_as_widths_are_opened() -> None:
    ofa = make()
    train(ofa, 0, 9)
    assert not is_sorted(ofa)
    ofa.phase = 3
    ofa._begin_phase()
    assert is_sorted(ofa)


def test_channels_are_sorted_once() -> None:
    ofa = make(small_problem(learning_rate=1e-9, final_learning_rate=0, weight_decay=0))
    train(ofa, 0, 10)
    assert is_sorted(ofa)
    for s in (0, 1):
        weight = ofa.supernet.state_dict()[f"stages.{s}.0.project.conv.weight"]
        weight.copy_(weight.flip(1))
    train(ofa, 10, NUM_STEPS)
    assert not is_sorted(ofa)


def test_widths_that_are_opened_one_by_one_are_sorted_within_the_narrowest_trained() -> None:
    phases = (
        Phase(opens=(), share=0.25),
        Phase(opens=("kernel", "depth"), share=0.25),
        Phase(opens=("width",), share=0.25),
        Phase(opens=("width",), share=0.25),
    )
    ofa = make(phases=phases)
    narrowest = []
    for phase in (2, 3):
        ofa.phase = phase
        narrowest.append(ofa._narrowest())
    assert narrowest == [None, 4]


def test_the_schedule_runs_anew_in_each_phase() -> None:
    ofa = make(small_problem(final_learning_rate=0.0))
    rates = []
    for step in range(6):
        ofa.descent.set_learning_rate(step)
        rates.append(ofa.descent.learning_rate)
    assert rates == pytest.approx([0.1, 0.075, 0.025, 0.05, 0.0375, 0.0125])


def test_a_phase_begins_without_momentum() -> None:
    ofa = make()
    train(ofa, 0, 3)
    state = ofa.descent.optimizer.state
    assert any(state[weight]["momentum_buffer"].any() for weight in ofa.descent.parameters)
    ofa.phase = 1
    ofa._begin_phase()
    assert not any(state[weight]["momentum_buffer"].any() for weight in ofa.descent.parameters)


def test_operations_without_an_order_are_taught_by_a_teacher_that_has_them() -> None:
    space = MacroSpace(
        INFO, num_stages=2, depths=(2, 3), widths=(4, 8), operations=("conv3x3", "sep_conv3x3")
    )
    ofa = make(replace(small_problem(), space=space))
    train(ofa, 0, NUM_STEPS)
    for _ in range(5):
        ofa.draws = torch.Generator().manual_seed(random.Random(0).randrange(100))
        paths = ofa.paths()
        operations = {tuple(path[k].active for k in (2, 4)) for path in [*paths, ofa.teaching_gates]}
        assert len(operations) == 1
    assert ofa.shrinking.first_steps == (0, 4, 8)


def test_the_search_keeps_to_the_budget(tmp_path: Path) -> None:
    problem = small_problem()
    affordable = Affordable.of(Budget(params=1200), problem.space, INFO)
    assert affordable is not None
    problem = replace(problem, affordable=affordable)
    ofa = make(problem)
    with Run.create(tmp_path / "run", "search", {"seed": 0}) as run:
        found = ofa.search(run, SharedWeights(problem, ofa.supernet, recalibration_batches=1))
    assert affordable.allows(found.architecture)


@pytest.mark.parametrize("calls", [2, 3, 4, 6, 7, 9, 10, 12])
def test_a_search_stopped_inside_or_between_phases_ends_as_one_that_was_not(
    calls: int, tmp_path: Path
) -> None:
    whole, found = searched(Run.create(tmp_path / "whole", "search", {"seed": 0}))
    with pytest.raises(Interrupted):
        searched(Run.create(tmp_path / "cut", "search", {"seed": 0}), stop_at=calls)
    resumed, found_again = searched(Run.resume(tmp_path / "cut", "search"))
    assert found_again == found
    assert_same(dict(resumed.supernet.state_dict()), dict(whole.supernet.state_dict()))
    losses = [
        [line["train_loss"] for line in Run.open(tmp_path / name).metrics()] for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]


def searched(run: Run, stop_at: int | None = None) -> tuple[Ofa, Architecture]:
    """A search that is asked to stop in the step `stop_at`, counted from 1."""
    ofa = StoppedOfa(small_problem(), phases=PHASES, **SMALL)  # type: ignore[arg-type]
    ofa.stop_at = stop_at
    with run:
        evaluator = SharedWeights(ofa.problem, ofa.supernet, recalibration_batches=1)
        return ofa, ofa.search(run, evaluator).architecture


class StoppedOfa(Ofa):
    stop_at: int | None = None
    calls = 0

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
