"""How much of the true Pareto front NSGA-II finds: accuracy against milliseconds.

    OMP_NUM_THREADS=1 python benchmarks/hypervolume.py [strategy ...] [--seeds 20] [--evaluations 500]

The objectives are CIFAR-10's validation accuracy after 12 epochs and the latency on a Raspberry Pi 4. The
figure is the hypervolume of all that a search has evaluated, in per cent of that of NAS-Bench-201's whole
table, up to the reference point of 80 % and 30 ms. Latencies below 0.1 ms are measuring faults and dropped.
"""

import argparse
import statistics
from typing import cast

from omegaconf import DictConfig, OmegaConf
from tabular import TABLE, problem_of

from nas_cli.catalogue import options
from nas_cli.config import build
from nas_cli.evaluators.tabular import Tabular, read_table
from nas_cli.front import hypervolume
from nas_cli.sampling import SamplingStrategy
from nas_cli.strategy import Strategy

LATENCY = "latency_ms_raspi4"
REFERENCE = (-80.0, 30.0)
LEAST_MS = 0.1


def volume(accuracies: list[float], latencies: list[float]) -> float:
    rows = zip(accuracies, latencies, strict=True)
    return hypervolume([(-accuracy, ms) for accuracy, ms in rows if ms >= LEAST_MS], REFERENCE)


def found_volume(name: str, seed: int, num_evaluations: int) -> float:
    node = cast(DictConfig, OmegaConf.load(options("strategy")[name]))
    node.num_evaluations = num_evaluations
    if "objectives" in node:
        node.objectives = ["score", LATENCY]
    problem = problem_of(seed)
    strategy = build(Strategy, node, problem)
    assert isinstance(strategy, SamplingStrategy)
    evaluator = Tabular(problem, path=str(TABLE), metrics=(LATENCY,))
    strategy.check_evaluator(evaluator)
    evaluations = [found.evaluation for found in strategy.evaluations(evaluator)]
    return volume([one.score for one in evaluations], [one.metrics[LATENCY] for one in evaluations])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=["nsga2", "random"], help="names of conf/strategy")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=500)
    arguments = parser.parse_args()
    columns = read_table(str(TABLE)).columns
    whole = volume(columns["c10_val12"], columns[LATENCY])
    for name in arguments.strategies:
        shares = [
            100 * found_volume(name, seed, arguments.evaluations) / whole for seed in range(arguments.seeds)
        ]
        print(
            f"{name:20} {statistics.mean(shares):.1f} % of the front's hypervolume, sd "
            f"{statistics.stdev(shares):.1f} n {len(shares)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
