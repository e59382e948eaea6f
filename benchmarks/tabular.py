"""Sampling strategies on NAS-Bench-201's table: what they find within 12,000 simulated seconds.

    OMP_NUM_THREADS=1 python benchmarks/tabular.py [strategy ...] [--seeds 20] [--dataset c100]

The score is the validation accuracy after 12 epochs; the test accuracy after 200 epochs of what each search
ends with is reported. Settings are those of conf/strategy but for the fidelities, which must be the
table's, and `--set KEY=VALUE`. The overhead is the CPU time of a search divided by its proposals, the look-up
included.
"""

import argparse
import importlib
import os
import statistics
import time
from functools import reduce
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf

from nas_cli.catalogue import options
from nas_cli.config import build
from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.evaluators.tabular import Tabular
from nas_cli.recipe import Recipe
from nas_cli.sampling import SamplingStrategy, better
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategy import Problem, Strategy
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TABLE = Path(os.environ.get("NAS_DATA", SHARED)) / "nasbench201.npz"
BUDGET = 12_000.0
OF_THE_TABLE = {"min_fidelity": 12, "max_fidelity": 200, "eta": 17, "num_architectures": 51}
"""The table knows two fidelities, 12 and 200 epochs: successive halving has two rungs, of 51 and of 3."""
IMAGES = Images(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8))
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)


def problem_of(seed: int) -> Problem:
    """The benchmark's space with a few grey images, as nothing is trained."""
    return Problem(
        space=NasBench201(INFO),
        data=ImageData(INFO, IMAGES, IMAGES),
        recipe=Recipe(),
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=seed,
    )


def strategies(settings: list[str]) -> dict[str, DictConfig]:
    """The node of every sampling strategy of conf/strategy."""
    nodes = {name: cast(DictConfig, OmegaConf.load(file)) for name, file in options("strategy").items()}
    given = {**OF_THE_TABLE, **OmegaConf.to_container(OmegaConf.from_dotlist(settings))}  # type: ignore[dict-item]
    for node in nodes.values():
        node.update({key: value for key, value in given.items() if key in node})
    return {name: node for name, node in nodes.items() if _samples(node)}


def _samples(node: DictConfig) -> bool:
    module, _, name = node._target_.rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), SamplingStrategy)


def search(node: DictConfig, seed: int, dataset: str) -> tuple[float, float, int]:
    """The test accuracy of the winner, the CPU seconds a proposal, the number of proposals."""
    problem = problem_of(seed)
    evaluator = Tabular(problem, path=str(TABLE), dataset=dataset, budget_seconds=BUDGET)
    strategy = build(Strategy, node, problem)
    assert isinstance(strategy, SamplingStrategy)
    strategy.check_evaluator(evaluator)
    started = time.process_time()
    evaluated = list(strategy.evaluations(evaluator))
    seconds = (time.process_time() - started) / len(evaluated)
    best = reduce(better, evaluated)
    return evaluator.report(best.architecture)["test_accuracy"], seconds, len(evaluated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("strategies", nargs="*", help="names of conf/strategy; default: all that sample")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dataset", default="c10", choices=("c10", "c100"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings to try")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    nodes = strategies(arguments.set)
    print(f"{arguments.dataset}: test accuracy after 200 epochs, {BUDGET:,.0f} simulated seconds")
    for name in arguments.strategies or nodes:
        runs = [search(nodes[name], seed, arguments.dataset) for seed in range(arguments.seeds)]
        accuracies, overheads, counts = zip(*runs, strict=True)
        deviation = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        print(
            f"{name:20} {statistics.mean(accuracies):.2f} sd {deviation:.2f} n {len(runs)}   "
            f"{statistics.mean(counts):.0f} evaluations, {statistics.mean(overheads) * 1e3:.3f} ms each",
            flush=True,
        )


if __name__ == "__main__":
    main()
