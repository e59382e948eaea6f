"""What a sampling strategy costs by itself: evaluations a second where a score is a look-up.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [strategy ...] [--evaluations 20000] [--rounds 5]

NAS-Bench-201's table, CPU seconds at one thread: in memory (propose, look up, observe) and with everything
that `nas search` does with each of them (the history on the disk, the best so far, the line of progress).
Then the peak memory of the process `nas search` after one evaluation and after 100,000, and of one that
resumes a search which was stopped after 100,000.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from tabular import TABLE, problem_of, strategies

from nas_cli.config import build
from nas_cli.evaluators.tabular import Tabular
from nas_cli.run import Run
from nas_cli.sampling import SamplingStrategy
from nas_cli.strategy import Strategy

NAMES = ("random", "evolution", "local_search")
MANY = 100_000


class Searches:
    """A strategy with its default settings, made anew for each search."""

    def __init__(self, name: str, num_evaluations: int) -> None:
        self.node = strategies([f"num_evaluations={num_evaluations}"])[name]
        self.num_evaluations = num_evaluations

    def in_memory(self) -> None:
        strategy, evaluator = self._made()
        deque(strategy.evaluations(evaluator), maxlen=0)

    def with_history(self) -> None:
        strategy, evaluator = self._made()
        with tempfile.TemporaryDirectory() as name, Run.create(Path(name), "search", {"seed": 0}) as run:
            strategy.search(run, evaluator)

    def _made(self) -> tuple[SamplingStrategy, Tabular]:
        problem = problem_of(seed=0)
        strategy = build(Strategy, self.node, problem)
        assert isinstance(strategy, SamplingStrategy)
        return strategy, Tabular(problem, path=str(TABLE))


def rates(run: Callable[[], None], num_evaluations: int, rounds: int) -> list[float]:
    """Evaluations a CPU second; the first round warms up."""
    found = []
    for _ in range(rounds + 1):
        started = time.process_time()
        run()
        found.append(num_evaluations / (time.process_time() - started))
    return found[1:]


def peak_memory_mb(folder: Path, *words: str) -> float:
    """Of a process `nas search` with these words, in that run folder."""
    command = [sys.executable, "-m", "nas_cli", "search", *words]
    subprocess.run(command, check=True, capture_output=True)
    return float(json.loads((folder / "status.json").read_text())["peak_memory_mb"])


def searching(folder: Path, num_evaluations: int) -> float:
    return peak_memory_mb(
        folder,
        "space=nasbench201",
        "strategy=random",
        "evaluator=tabular",
        f"evaluator.path={TABLE}",
        f"strategy.num_evaluations={num_evaluations}",
        f"hydra.run.dir={folder}",
    )


def importing_torch() -> float:
    code = "import resource, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)"
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def resuming(folder: Path) -> float:
    """The search in the folder is done: it goes on as one that was stopped before its last line."""
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "interrupted"}))
    return peak_memory_mb(folder, "--resume", str(folder))


def measure_memory() -> dict[str, float]:
    """MB at the peak of each process."""
    with tempfile.TemporaryDirectory() as root:
        one, many = Path(root) / "one", Path(root) / "many"
        return {
            "importing torch and nothing else": importing_torch(),
            "one evaluation": searching(one, 1),
            f"{MANY:,} evaluations": searching(many, MANY),
            f"resumed after {MANY:,}": resuming(many),
        }


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f}, n={len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=NAMES, help="names of conf/strategy that sample")
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, megabytes in measure_memory().items():
        print(f"memory, {name}: {megabytes:,.0f} MB at its peak", flush=True)
    for name in arguments.strategies:
        searches = Searches(name, arguments.evaluations)
        for how, run in (("in memory", searches.in_memory), ("with the history", searches.with_history)):
            found = rates(run, arguments.evaluations, arguments.rounds)
            print(f"{name}, {how}: {summary(found)} evaluations a CPU second", flush=True)


if __name__ == "__main__":
    main()
