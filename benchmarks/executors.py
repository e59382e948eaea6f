"""How much faster several worker processes score candidates, and what they cost by themselves.

    OMP_NUM_THREADS=1 python benchmarks/executors.py [processes | ray] [--seconds 5] [--evaluations 12]

An evaluation keeps one thread busy for so many seconds. One worker and two take turns (with Ray one task in
flight and two); the time that workers take to start is not counted. Then evaluations that do nothing: the
executor's own seconds of each.
"""

import argparse
import logging
import statistics
import time
from collections import deque
from functools import partial

from tabular import problem_of

from nas_cli.architecture import Architecture
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.executor import Executor
from nas_cli.executors.processes import Processes
from nas_cli.executors.ray import Ray
from nas_cli.strategies.random import RandomSearch

NUM_EMPTY = 500
IN_FLIGHT = 4


class Busy(Evaluator):
    """Works for so many CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        started = time.process_time()
        while time.process_time() - started < self.seconds:
            pass
        return Evaluation(0.0, self.seconds)


def executor_of(name: str, workers: int) -> Executor:
    return Ray(in_flight=workers) if name == "ray" else Processes(workers=workers, in_flight=IN_FLIGHT)


def seconds_of(name: str, workers: int, num_evaluations: int, seconds: float) -> float:
    """For all evaluations, when the workers are there."""
    make = partial(Busy, seconds)
    with executor_of(name, workers).scoring(make(), make, logging.getLogger()) as evaluator:
        strategy = RandomSearch(problem_of(seed=0), num_evaluations=num_evaluations)
        architecture = strategy.problem.sample(strategy.rng)
        for score in [evaluator.submit(architecture) for _ in range(2 * workers)]:
            score()
        started = time.perf_counter()
        deque(strategy.evaluations(evaluator), maxlen=0)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("executor", nargs="?", choices=("processes", "ray"), default="processes")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ratios = []
    for _ in range(arguments.rounds):
        one, two = (
            seconds_of(arguments.executor, workers, arguments.evaluations, arguments.seconds)
            for workers in (1, 2)
        )
        ratios.append(one / two)
        print(f"one worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast", flush=True)
    print(f"median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    own = [
        1e3 * seconds_of(arguments.executor, 1, NUM_EMPTY, 0.0) / NUM_EMPTY for _ in range(arguments.rounds)
    ]
    print(f"{statistics.median(own):.2f} ms of its own an evaluation ({min(own):.2f} to {max(own):.2f})")


if __name__ == "__main__":
    main()
