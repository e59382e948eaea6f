"""How scores of untrained networks rank NAS-Bench-201's cells: Spearman's correlation with the table.

    OMP_NUM_THREADS=1 python benchmarks/ranking.py [--data FOLDER] [--cells 500] [--seed 0]

The cells are drawn from the table; their networks have the benchmark's size (16 channels, 5 cells a stage)
and see one batch of 64 CIFAR-10 images. Beside the scores stand the counts of parameters and multiply-adds,
which cost nothing. In brackets: 95 % of 1,000 bootstrap samples of the cells.
"""

import argparse
import os
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from nas_cli.architecture import GenotypeText
from nas_cli.datasets.npz import Npz
from nas_cli.evaluators.zero_cost import SCORES, Scorer, ZeroCost
from nas_cli.recipe import Recipe
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COLUMNS = ("c10_val12", "c10_val200", "c10_test200")
BEST_SHARE = 0.2


def main() -> None:
    arguments = _arguments()
    problem = _problem(arguments.data / "cifar10_20k.npz", arguments.seed)
    with np.load(arguments.data / "nasbench201.npz") as table:
        rows = sorted(random.Random(arguments.seed).sample(range(len(table["arch"])), arguments.cells))
        spellings = [table["arch"][row].decode() for row in rows]
        truth = {column: table[column][rows] for column in COLUMNS}
        scores = {
            "parameters": table["c10_params_from_arch_m"][rows],
            "multiply-adds": table["c10_flops_from_arch_m"][rows],
        }
    print_seconds(problem, spellings[:: max(1, len(spellings) // 20)])
    print_table(scores | score_all(problem, spellings), truth)


def score_all(problem: Problem, spellings: list[str]) -> dict[str, np.ndarray]:
    """Every zero-cost score, one value a cell."""
    evaluator, values = ZeroCost(problem), defaultdict(list)
    started = time.perf_counter()
    for spelling in spellings:
        metrics = evaluator.evaluate(problem.space.parse(GenotypeText(spelling))).metrics
        for name, value in metrics.items():
            values[name].append(value)
    seconds = time.perf_counter() - started
    print(f"{len(spellings)} cells and {evaluator.num_references} references: {seconds:.0f} s\n", flush=True)
    return {name: np.array(column) for name, column in values.items()}


def print_seconds(problem: Problem, spellings: list[str]) -> None:
    scorer = Scorer(problem)
    for names in (*((name,) for name in SCORES), tuple(SCORES)):
        started = time.process_time()
        for spelling in spellings:
            scorer.scores(problem.space.parse(GenotypeText(spelling)), names)
        seconds = (time.process_time() - started) / len(spellings)
        print(f"{' + '.join(names)}: {seconds:.2f} CPU s a network (n={len(spellings)})", flush=True)


def print_table(scores: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    best = truth["c10_test200"] >= np.quantile(truth["c10_test200"], 1 - BEST_SHARE)
    print(f"| score | {' | '.join(truth)} | c10_test200, best {BEST_SHARE:.0%} |")
    print("|---|" + "---|" * (len(truth) + 1))
    for name, values in scores.items():
        cells = [correlation(values, column) for column in truth.values()]
        cells.append(correlation(values[best], truth["c10_test200"][best]))
        print(f"| {name} | {' | '.join(cells)} |")


def correlation(left: np.ndarray, right: np.ndarray) -> str:
    draws = np.random.default_rng(0).integers(0, len(left), (1000, len(left)))
    low, high = np.quantile([spearmanr(left[draw], right[draw])[0] for draw in draws], (0.025, 0.975))
    return f"{spearmanr(left, right)[0]:.3f} [{low:.2f}, {high:.2f}]"


def _problem(images: Path, seed: int) -> Problem:
    data = Npz(path=str(images)).load()
    trainer = Trainer(device="cpu")
    return Problem(NasBench201(data.info), data, Recipe(), trainer, SupernetOptions(), seed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", SHARED)))
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
