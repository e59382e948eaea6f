"""How one-shot's shared weights rank NAS-Bench-201's cells: Spearman's correlation with the table.

    OMP_NUM_THREADS=1 python benchmarks/hours/one_shot_ranking.py [--data FOLDER] [--cells 500] [--seed 0]
        [word of nas search ...]

Trains a supernet and evolves in it by `nas search experiment=nasbench201_one_shot`, with the words given,
in outputs/ of the folder it is started in; a search that is there already is not run again. Random cells are
then scored as the evolution scored them. Both the scores and the cell found are compared with the CIFAR-10
test accuracy after 200 epochs of the table, which no search reads. The correlation is also given over the
better half of the cells, where the poorest cannot help. In brackets: 95 % of 1,000 bootstrap samples.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from nas_cli.architecture import Architecture, Genotype, read_genotype
from nas_cli.commands.setup import make_problem
from nas_cli.config import build
from nas_cli.evaluator import Evaluator
from nas_cli.evaluators.tabular import Table, read_table
from nas_cli.run import Run
from nas_cli.strategy import Problem

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TRUTH = "c10_test200"


def main() -> None:
    arguments = _arguments()
    folder = Path("outputs") / "one_shot_ranking" / "-".join([f"seed{arguments.seed}", *arguments.words])
    if not (folder / "genotype.json").exists():
        search(folder, arguments.data / "cifar10_20k.npz", arguments.seed, arguments.words)
    run = Run.open(folder)
    config = OmegaConf.create(run.config)
    problem = make_problem(config)
    table = read_table(str(arguments.data / "nasbench201.npz"))
    print_search(run, problem, table)
    scoring = OmegaConf.merge(config.evaluator, {"run": str(folder)})
    print_ranking(problem, build(Evaluator, scoring, problem), table, arguments.cells)


def search(folder: Path, images: Path, seed: int, words: list[str]) -> None:
    command = [sys.executable, "-m", "nas_cli", "search", "experiment=nasbench201_one_shot", f"seed={seed}"]
    command.append("evaluator=shared_weights")
    places = [f"dataset.path={images}", f"hydra.run.dir='{folder}'"]
    subprocess.run([*command, *places, *words], check=True)


def print_search(run: Run, problem: Problem, table: Table) -> None:
    genotype = read_genotype(str(run.path("genotype.json")))
    assert isinstance(genotype, Genotype)
    found, status = problem.space.architecture_of(genotype.choices), run.status()
    print(f"found {problem.space.spell(found)}")
    print(f"test accuracy of its row: {truth(problem, table, [found])[0]:.2f} %")
    print(f"{status['seconds']:.0f} s, peak memory {status['peak_memory_mb']:.0f} MB")


def print_ranking(problem: Problem, evaluator: Evaluator, table: Table, num_cells: int) -> None:
    draws = random.Random(0)
    cells = [problem.space.sample(draws) for _ in range(num_cells)]
    started = time.process_time()
    scores = np.array([evaluator.evaluate(cell).score for cell in cells])
    seconds = (time.process_time() - started) / num_cells
    accuracies = truth(problem, table, cells)
    better = accuracies >= np.median(accuracies)
    print(f"{num_cells} cells, {seconds:.2f} CPU seconds a score")
    print(f"rank correlation: {correlation(scores, accuracies)}")
    print(f"of the better half: {correlation(scores[better], accuracies[better])}")
    print(f"mean accuracy of the ten best scores: {accuracies[np.argsort(-scores)[:10]].mean():.2f} %")


def truth(problem: Problem, table: Table, cells: list[Architecture]) -> np.ndarray:
    return np.array([table.columns[TRUTH][table.rows[problem.space.spell(cell)]] for cell in cells])


def correlation(scores: np.ndarray, accuracies: np.ndarray) -> str:
    draws = np.random.default_rng(0)
    samples = [draws.integers(0, len(scores), len(scores)) for _ in range(1000)]
    low, high = np.quantile([spearmanr(scores[s], accuracies[s])[0] for s in samples], (0.025, 0.975))
    return f"{spearmanr(scores, accuracies)[0]:.2f} [{low:.2f}, {high:.2f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", SHARED)))
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    main()
