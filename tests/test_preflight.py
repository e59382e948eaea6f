"""What is tried out before a search or a training: it changes nothing, and refuses what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nas_cli import preflight
from nas_cli.architecture import Json
from nas_cli.errors import ConfigError
from nas_cli.evaluators.from_scratch import FromScratch
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.machine import free_disk, free_memory, left_in_groups
from nas_cli.network_training import NetworkTraining
from nas_cli.preflight import Expectation, Room, Timed
from nas_cli.rehearsal import Piece
from nas_cli.strategies.darts import Darts
from nas_cli.strategies.enas import Enas
from nas_cli.strategies.one_shot import OneShot
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategies.successive_halving import SuccessiveHalving
from nas_cli.strategy import Problem
from nas_cli.weight_sharing import WeightSharingStrategy
from tests.strategies.test_ofa import make
from tests.toy import BEST, CountBest, toy_problem, toy_run

CPU = torch.device("cpu")
SIZES = ("space.channels", "space.num_cells")


def room(folder: Path) -> Room:
    return Room(CPU, folder, SIZES)


def darts(problem: Problem) -> Darts:
    return Darts(problem, warmup_epochs=1)


def one_shot(problem: Problem) -> OneShot:
    return OneShot(problem, num_evaluations=20)


def learned(strategy: WeightSharingStrategy) -> list[object]:
    leaves = tree_leaves(strategy.state_dict())
    return [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


@pytest.mark.parametrize("make_strategy", [darts, one_shot, Enas])
def test_a_search_ends_the_same_with_and_without(
    make_strategy: Callable[[Problem], WeightSharingStrategy], tmp_path: Path
) -> None:
    records = []
    for name in ("without", "with"):
        strategy = make_strategy(toy_problem(epochs=2, steps_per_epoch=4))
        evaluator = SharedWeights(strategy.problem, strategy.supernet)
        before, drawn = learned(strategy), torch.get_rng_state()
        if name == "with":
            assert preflight.of_search(strategy, evaluator, room(tmp_path)) is not None
            assert learned(strategy) == before
            assert torch.equal(torch.get_rng_state(), drawn)
        with toy_run(tmp_path / name) as run:
            found = strategy.search(run, evaluator)
        records.append((found.architecture, found.evaluation.score, learned(strategy)))
    assert records[0] == records[1]


def names(expectation: Expectation | None) -> dict[str, float]:
    assert expectation is not None
    assert expectation.seconds > 0
    assert expectation.memory_bytes > 0
    return {one.name: one.count for one in expectation.timed}


def test_every_kind_of_step_is_timed(tmp_path: Path) -> None:
    strategy = darts(toy_problem(epochs=5, steps_per_epoch=2))
    evaluator = SharedWeights(strategy.problem, strategy.supernet, recalibration_batches=3)
    expectation = preflight.of_search(strategy, evaluator, room(tmp_path))
    assert names(expectation) == {"warm-up step": 2, "step": 8, "recalibration": 3, "scoring": 1}


def test_every_phase_of_progressive_shrinking_is_timed_with_its_teacher(tmp_path: Path) -> None:
    ofa = make()
    expectation = preflight.of_search(ofa, CountBest(), room(tmp_path))
    assert list(names(expectation)) == [f"step of phase {k + 1}" for k in range(len(ofa.shrinking.phases))]
    assert ofa.teacher is None


def test_a_search_as_short_as_its_trial_is_begun_at_once(tmp_path: Path) -> None:
    for steps, is_tried in ((5, False), (6, True)):
        strategy = one_shot(toy_problem(epochs=1, steps_per_epoch=steps))
        expectation = preflight.of_search(strategy, CountBest(), room(tmp_path))
        assert (expectation is not None) == is_tried


def test_training_from_scratch_is_expected_by_its_epochs(tmp_path: Path) -> None:
    problem = toy_problem(steps_per_epoch=4)
    expectation = preflight.of_search(
        RandomSearch(problem, num_evaluations=6), FromScratch(problem, epochs=5), room(tmp_path)
    )
    assert names(expectation) == {"step": 6 * 5 * 4, "scoring": 6 * 2}
    halving = SuccessiveHalving(problem, num_architectures=4, min_fidelity=1, max_fidelity=4, eta=2)
    expectation = preflight.of_search(halving, FromScratch(problem), room(tmp_path))
    assert names(expectation)["step"] == 4 * (4 * 1 + 2 * 2 + 1 * 4)


def test_there_is_nothing_to_time_where_scores_are_looked_up(tmp_path: Path) -> None:
    assert (
        preflight.of_search(RandomSearch(toy_problem(), num_evaluations=6), CountBest(), room(tmp_path))
        is None
    )


def test_a_training_is_expected_with_its_test_and_unchanged(tmp_path: Path) -> None:
    problem = toy_problem(epochs=3)
    training = NetworkTraining(
        problem.space.build(BEST),
        problem.data.train,
        problem.data.info,
        recipe=problem.recipe,
        trainer=problem.trainer,
        seed=0,
    )
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    expectation = preflight.of_training(training, problem.data.test, room(tmp_path))
    assert names(expectation) == {"step": 3 * 4, "scoring": 4}
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.network.state_dict().items())


def test_more_memory_than_there_is_is_refused_with_what_to_lower(tmp_path: Path) -> None:
    piece = Piece("step", 10, 64, lambda size: None)
    with pytest.raises(ConfigError) as error:
        room(tmp_path).check_memory(piece, {64: 1e18, 32: 1e17, 16: 10.0, 8: 5.0})
    for part in ("step of 64 images", "recipe.batch_size; 16 images would do", *SIZES, "preflight=false"):
        assert part in str(error.value)


def test_a_batch_that_will_not_fit_is_never_done(tmp_path: Path) -> None:
    done = []

    def promise(size: int) -> object:
        done.append(size)
        return [torch.empty(2**50, device="meta") for _ in range(size)]

    with pytest.raises(ConfigError, match="needs about"):
        preflight._peak(Piece("step", 1, 512, promise), room(tmp_path))
    assert max(done) == 128


def test_more_disk_than_there_is_is_refused_with_another_folder(tmp_path: Path) -> None:
    room(tmp_path / "not" / "made").check_disk(1)
    with pytest.raises(
        ConfigError, match=r"of disk, and .* left\. Choose another folder with hydra\.run\.dir"
    ):
        room(tmp_path).check_disk(10**18)


def test_an_expectation_is_told_and_kept(tmp_path: Path) -> None:
    expected = Expectation((Timed("step", 0.5, 600), Timed("scoring", 0.01, 100)), 3 * 2**30, 5 * 2**20)
    with toy_run(tmp_path) as run:
        preflight.tell(run, expected)
    assert expected.text == (
        "Expected: 5m 01s (600 x step of 0.5 s, 100 x scoring of 10 ms), 3.0 GiB of memory, 5 MiB of disk."
    )
    kept: dict[str, Json] = json.loads((tmp_path / "preflight.json").read_text())
    assert (kept["seconds"], kept["memory_mb"], kept["disk_mb"]) == (301.0, 3072.0, 5.0)
    assert expected.text in (tmp_path / "search.log").read_text()


def test_the_machine_has_memory_and_disk_left(tmp_path: Path) -> None:
    assert free_memory(CPU) > 0
    assert free_disk(tmp_path / "not" / "made") > 0


@pytest.mark.parametrize(
    ("kinds", "limit", "usage", "cache"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_the_limits_of_a_container_count_with_all_above_them(
    tmp_path: Path, kinds: str, limit: str, usage: str, cache: str
) -> None:
    for folder, most in (("job", "1000"), ("job/part", "max")):
        group = tmp_path / kinds / folder
        group.mkdir(parents=True)
        (group / limit).write_text(most)
        (group / usage).write_text("700\n")
        (group / "memory.stat").write_text(f"anon 1\n{cache} 50\n")
    (tmp_path / "self").write_text(f"4:{kinds}:/job/part\n3:cpu:/other\n")
    assert left_in_groups(tmp_path, tmp_path / "self") == [350]
