"""Seconds that each kind of work takes for one image: what machine-hours are reckoned from.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [rounds]

Each line is a command with its settings on images of noise of the size that counts; its steps are tried out
as before every run (`nas_cli/preflight.py`). CPU seconds at one thread, the pieces of all lines in turn,
medians and ranges of so many rounds after one that is not counted. docs/scaling.md goes on from there.
"""

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from nas_cli.architecture import Genotype, read_genotype
from nas_cli.commands.search import make_evaluator
from nas_cli.commands.setup import make_problem
from nas_cli.config import build
from nas_cli.config.composition import Request, compose
from nas_cli.data import Dataset
from nas_cli.network_training import NetworkTraining
from nas_cli.recipe import Recipe
from nas_cli.rehearsal import Piece, steps_of
from nas_cli.space import SearchSpace
from nas_cli.strategy import Strategy
from nas_cli.trainer import Trainer
from nas_cli.weight_sharing import WeightSharingStrategy

PAPERS_MOBILENET = (
    "space=mobilenet",
    "space.stage_channels=[24,40,80,112,160]",
    "space.stage_strides=[2,2,2,1,2]",
    "space.head_channels=1280",
)


@dataclass(frozen=True)
class Case:
    """A command on images of so many pixels and classes. What is retrained is DARTS_V2 or a sample."""

    title: str
    command: str
    words: tuple[str, ...]
    pixels: int
    classes: int
    batch_size: int


EIGHT_CELLS = ("space.num_cells=8", "space.channels=16")
PC_DARTS = ("strategy=pc_darts", *EIGHT_CELLS)
CASES = (
    Case("DARTS searches", "search", ("strategy=darts", *EIGHT_CELLS), 32, 10, 64),
    Case("PC-DARTS searches", "search", PC_DARTS, 32, 10, 64),
    Case("DARTS_V2", "retrain", ("space.num_cells=20", "space.channels=36"), 32, 10, 32),
    Case("PC-DARTS searches", "search", PC_DARTS, 224, 1000, 16),
    Case("DARTS_V2", "retrain", ("space.num_cells=14", "space.channels=48"), 224, 1000, 8),
    Case("ProxylessNAS searches", "search", ("strategy=proxyless", *PAPERS_MOBILENET), 224, 1000, 16),
    Case("Once-for-All", "search", ("strategy=ofa", *PAPERS_MOBILENET), 224, 1000, 16),
    Case("a sub-network of Once-for-All", "retrain", PAPERS_MOBILENET, 224, 1000, 16),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pieces = [(case, piece) for case in CASES for piece in pieces_of(case, Path(folder))]
        rounds = [[seconds_of(piece) for _, piece in pieces] for _ in range(arguments.rounds + 1)]
    print("| | pixels | what | CPU ms an image, median (range) |\n|---|---|---|---|")
    for (case, piece), times in zip(pieces, zip(*rounds[1:], strict=True), strict=True):
        each = sorted(1e3 * seconds / piece.batch_size for seconds in times)
        spread = f"{statistics.median(each):.3g} ({each[0]:.3g} to {each[-1]:.3g})"
        print(f"| {case.title} | {case.pixels} | {piece.name} of {piece.batch_size} | {spread} |")


def pieces_of(case: Case, folder: Path) -> list[Piece]:
    words = (*case.words, "dataset=npz", f"dataset.path={images(case, folder)}")
    recipe = ("recipe=cpu", f"recipe.batch_size={case.batch_size}")
    config = compose(Request(case.command, (*words, *recipe)))
    return searching(config) if case.command == "search" else training(config)


def images(case: Case, folder: Path) -> Path:
    """Noise, four batches of it, in which every class occurs."""
    file = folder / f"{case.pixels}-{case.classes}.npz"
    if not file.exists():
        draws = np.random.default_rng(0)
        labels = np.arange(max(4 * case.batch_size, 2 * case.classes)) % case.classes
        pixels = draws.integers(0, 256, (len(labels), case.pixels, case.pixels, 3), dtype=np.uint8)
        np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return file


def searching(config: DictConfig) -> list[Piece]:
    problem = make_problem(config)
    strategy = build(Strategy, config.strategy, problem)
    assert isinstance(strategy, WeightSharingStrategy)
    evaluator = make_evaluator(config, problem, strategy.supernet)
    sampled = problem.sample(random.Random(0))
    return [*steps_of(strategy), *evaluator.pieces(sampled, {None: 1.0})]


def training(config: DictConfig) -> list[Piece]:
    data = build(Dataset, config.dataset).load()
    space = build(SearchSpace, config.space, data.info)
    architecture = space.sample(random.Random(0))
    if config.space._target_.endswith("DartsSpace"):
        genotype = read_genotype("darts_v2")
        assert isinstance(genotype, Genotype)
        architecture = space.architecture_of(genotype.choices)
    return steps_of(
        NetworkTraining(
            space.build(architecture),
            data.train,
            data.info,
            recipe=build(Recipe, config.recipe),
            trainer=build(Trainer, config.trainer, "retrain"),
            seed=0,
        )
    )


def seconds_of(piece: Piece) -> float:
    started = time.process_time()
    piece.do(piece.batch_size)
    return time.process_time() - started


if __name__ == "__main__":
    main()
