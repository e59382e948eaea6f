"""Scores with the weights of a supernet."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import update_bn

from nas_cli.architecture import Architecture
from nas_cli.data import Batches, ImageInfo
from nas_cli.errors import ConfigError, RunError
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.network_training import accuracy
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seeded
from nas_cli.spaces.macro import MacroSpace
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet
from tests.checkpoints import saved_weights
from tests.toy import INFO, toy_problem

CONVOLUTIONS = Architecture((3, 2, 1, 3, 4, 2))


def problem_of(seed: int = 0, weights_share: float = 0.5, info: ImageInfo = INFO) -> Problem:
    toy = toy_problem(seed)
    recipe = Recipe(epochs=1, batch_size=8, weights_share=weights_share)
    space = NasBench201(info, num_cells=1, channels=4)
    return replace(toy, space=space, recipe=recipe, data=replace(toy.data, info=info))


def supernet_of(problem: Problem) -> Supernet:
    with seeded(0, "supernet"):
        return problem.space.build_supernet(problem.supernet)


def searched(folder: Path, problem: Problem) -> Path:
    """A DARTS search of that problem in a run folder."""
    settings = {
        "seed": problem.seed,
        "strategy": {"_target_": "nas_cli.strategies.darts.Darts"},
        "recipe": {"weights_share": problem.recipe.weights_share},
    }
    with Run.create(folder, "search", settings) as run:  # type: ignore[arg-type]
        run.write_json("images.json", problem.data.info.to_json())  # type: ignore[arg-type]
        darts = Darts(problem)
        darts.search(run, SharedWeights(problem, darts.supernet))
    return folder


@pytest.mark.parametrize("architecture", [CONVOLUTIONS, Architecture((1, 1, 1, 1, 1, 1))])
def test_the_score_is_the_accuracy_of_the_path_with_its_own_batch_statistics(
    architecture: Architecture,
) -> None:
    problem = problem_of()
    supernet = supernet_of(problem)
    score = SharedWeights(problem, supernet, recalibration_batches=3).evaluate(architecture).score
    weights_part, score_part = problem.data.split(0.5, seed=0)
    path = supernet.cut_out(architecture)
    augmentation = problem.recipe.augmentation(INFO)
    batches = Batches(weights_part, INFO, batch_size=8, seed=0, augmentation=augmentation)
    update_bn((batch.images for batch in batches.steps(0, 3)), path)
    assert score == accuracy(path, score_part, INFO, problem.trainer, batch_size=8)


def test_an_evaluation_leaves_the_supernet_as_it_was() -> None:
    problem = problem_of()
    supernet = supernet_of(problem)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    evaluator = SharedWeights(problem, supernet)
    scores = {evaluator.evaluate(CONVOLUTIONS).score for _ in range(2)}
    assert len(scores) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_network_in_another_spelling_is_not_scored_again() -> None:
    problem = replace(toy_problem(), space=MacroSpace(INFO, operations=("conv3x3", "none")))
    stage_of_none, of_another_depth = Architecture((0, *(0, 1) * 3)), Architecture((1, *(0, 1) * 3))
    evaluator = SharedWeights(problem, supernet_of(problem), recalibration_batches=1)
    first = evaluator.evaluate(stage_of_none)
    with torch.no_grad():
        for parameter in evaluator.supernet.parameters():
            parameter.normal_()
    assert evaluator.evaluate(of_another_depth).score == first.score
    assert len(evaluator.scores) == 1


def test_fewer_images_are_the_same_share_of_each_class() -> None:
    problem = problem_of()
    scored_on = SharedWeights(problem, supernet_of(problem), max_images=10).score_part
    assert torch.bincount(scored_on.labels).tolist() == [5, 5]
    assert SharedWeights(problem, supernet_of(problem), max_images=10).evaluate(CONVOLUTIONS).score % 10 == 0


def test_a_limit_above_the_number_of_images_takes_all() -> None:
    problem = problem_of()
    assert len(SharedWeights(problem, supernet_of(problem), max_images=33).score_part) == 32


def test_a_supernet_of_an_earlier_search_is_read_back(tmp_path: Path) -> None:
    problem = problem_of()
    run = searched(tmp_path / "run", problem)
    saved = saved_weights(run, "supernet")
    read = SharedWeights(problem, run=str(run)).supernet.state_dict()
    assert all(torch.equal(read[name], saved[name]) for name in saved)


def test_scores_are_of_images_that_the_earlier_search_kept_from_the_weights(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", problem_of(seed=0, weights_share=0.75))
    other = problem_of(seed=1, weights_share=0.5)
    _, kept = other.data.split(0.75, seed=0)
    scored_on = SharedWeights(other, run=str(run)).score_part
    assert len(scored_on) == 16
    images, expected = (part.read(torch.arange(16))[0] for part in (scored_on, kept))
    assert torch.equal(images, expected)


def test_a_supernet_of_other_images_is_refused(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", problem_of())
    with pytest.raises(RunError, match="trained on other images"):
        SharedWeights(problem_of(info=replace(INFO, mean=(0.25,))), run=str(run))


def test_a_run_without_a_supernet_is_refused(tmp_path: Path) -> None:
    with Run.create(tmp_path, "search", {"seed": 0}) as run:
        run.write_json("images.json", INFO.to_json())  # type: ignore[arg-type]
    with pytest.raises(RunError, match="holds no supernet"):
        SharedWeights(problem_of(), run=str(tmp_path))


def test_without_a_supernet_a_run_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"evaluator\.run= is needed"):
        SharedWeights(problem_of())


def test_a_run_beside_a_supernet_of_the_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="trains its own supernet"):
        SharedWeights(problem_of(), supernet_of(problem_of()), run="elsewhere")
