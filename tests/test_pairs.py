"""Every strategy of conf/strategy on every space of conf/space: it runs to its end, or says why not."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from nas_cli.architecture import Architecture
from nas_cli.catalogue import options
from nas_cli.compatibility import refusal
from nas_cli.config import build
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seed_for
from nas_cli.space import SearchSpace
from nas_cli.strategy import Problem, Strategy
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from tests.toy import toy_images

PAIRS = [(space, strategy) for space in options("space") for strategy in options("strategy")]
# Small enough for a test; a space or a strategy without such a setting keeps its own.
SMALL_SPACE = {"channels": 4, "num_cells": 3, "num_nodes": 2, "num_blocks": 2}
SMALL_SEARCH = {
    "num_evaluations": 24,
    "warmup_epochs": 0,
    "num_products": 1,
    "predictor_samples": 5,
    "num_predictions": 10,
    "num_finalists": 2,
    "controller_steps": 2,
    "num_candidates": 20,
    "phases": [{"opens": [], "share": 0.5}, {"opens": ["kernel", "depth", "width"], "share": 0.5}],
}
INFO = toy_images().info


class Arbitrary(Evaluator):
    """A score without a meaning, which depends on the architecture alone."""

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        return Evaluation(seed_for(0, *architecture.picks) % 1000 / 10, seconds=0.0)


def node_of(group: str, name: str, small: Mapping[str, object]) -> DictConfig:
    node = OmegaConf.load(options(group)[name])
    assert isinstance(node, DictConfig)
    node.update({key: value for key, value in small.items() if key in node})
    return node


def problem_of(space: SearchSpace) -> Problem:
    return Problem(
        space=space,
        data=toy_images(),
        recipe=Recipe(epochs=2, steps_per_epoch=1, batch_size=8),
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=0,
    )


@pytest.mark.parametrize(("space_name", "strategy_name"), PAIRS)
def test_a_pair_searches_and_its_network_is_built_or_it_says_what_works(
    space_name: str, strategy_name: str, tmp_path: Path
) -> None:
    space = build(SearchSpace, node_of("space", space_name, SMALL_SPACE), INFO)
    node = node_of("strategy", strategy_name, SMALL_SEARCH)
    if reason := refusal(space, node):
        assert "space=" in reason
        return
    problem = problem_of(space)
    strategy = build(Strategy, node, problem)
    shared = strategy.supernet
    evaluator = Arbitrary() if shared is None else SharedWeights(problem, shared, recalibration_batches=1)
    with Run.create(tmp_path / "run", "search", {"seed": 0}) as run:
        found = strategy.search(run, evaluator)
    with torch.no_grad():
        logits = space.build(found.architecture).eval()(torch.rand(2, INFO.channels, INFO.size, INFO.size))
    assert logits.shape == (2, INFO.num_classes)
    assert 0 <= found.evaluation.score <= 100
