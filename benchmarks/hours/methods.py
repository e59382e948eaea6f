"""Every family of methods on one data set, one machine and one retraining recipe.

    python benchmarks/hours/methods.py DATASET [--seeds 3]

DATASET is `digits`, another option of the group `dataset`, or the path of an .npz file. Each method
searches and retrains what it found, under each seed; as many runs go side by side as there are processors,
one thread each. Prints a table and writes it to outputs/methods/<dataset>/table.md. A run that is there
already is not run again, so an interrupted table goes on where it was.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Method:
    """`settings`: words of `nas search` beside the data set and the size of the search."""

    title: str
    kind: str
    space: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """How long everything takes: words of `nas search`, of searches that train each sample or score many
    sub-networks, and of `nas retrain`.
    """

    search: tuple[str, ...]
    sampled: tuple[str, ...]
    scored: tuple[str, ...]
    retrain: tuple[str, ...]


SAMPLED = ("evaluator=from_scratch", "strategy.num_evaluations=12")
METHODS = {
    "random": Method(
        "random search", "uniform samples, trained briefly", "darts", ("strategy=random", *SAMPLED)
    ),
    "rl": Method(
        "NASNet's controller", "reinforcement learning, trained briefly", "darts", ("strategy=rl", *SAMPLED)
    ),
    "darts": Method(
        "DARTS", "gradient, shared weights", "darts", ("strategy=darts", "strategy.learning_rate=3e-3")
    ),
    "enas": Method("ENAS", "reinforcement learning, shared weights", "darts", ("strategy=enas",)),
    "random_mobilenet": Method(
        "random search", "uniform samples, trained briefly", "mobilenet", ("strategy=random", *SAMPLED)
    ),
    "proxyless": Method("ProxylessNAS", "gradient, two paths", "mobilenet", ("strategy=proxyless",)),
    "ofa": Method("Once-for-All", "progressive shrinking, then evolution", "mobilenet", ("strategy=ofa",)),
}
DIGITS = Size(
    search=("recipe=quick", "recipe.epochs=8"),
    sampled=("evaluator.epochs=1",),
    scored=(),
    retrain=("recipe=quick", "recipe.epochs=15"),
)
IMAGES = Size(
    search=("recipe=cpu", "recipe.epochs=10"),
    sampled=("evaluator.epochs=4",),
    scored=("evaluator=shared_weights", "evaluator.max_images=2000"),
    retrain=("recipe=cpu_retrain", "recipe.epochs=14"),
)


@dataclass(frozen=True)
class Outcome:
    search_minutes: float
    accuracy: float
    parameters: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--seeds", type=int, default=None, help="3; 2 for digits")
    arguments = parser.parse_args()
    digits = arguments.dataset == "digits"
    seeds = arguments.seeds or (2 if digits else 3)
    folder = Path("outputs") / "methods" / Path(arguments.dataset).stem
    # The last ones take longest: they begin, so that no processor is idle in the end.
    jobs = [(name, seed) for name in reversed(METHODS) for seed in range(seeds)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda job: run(*job, arguments.dataset, folder), jobs))
    found = dict(zip(jobs, outcomes, strict=True))
    text = table({name: [found[name, seed] for seed in range(seeds)] for name in METHODS})
    (folder / "table.md").write_text(text)
    print(text)


def run(name: str, seed: int, dataset: str, folder: Path) -> Outcome:
    """Search and retrain, unless that was done before."""
    method, size = METHODS[name], DIGITS if dataset == "digits" else IMAGES
    search, retrain = folder / f"{name}-{seed}-search", folder / f"{name}-{seed}-retrain"
    if not (search / "genotype.json").exists():
        data = (
            ["dataset=npz", f"dataset.path={dataset}"] if dataset.endswith(".npz") else [f"dataset={dataset}"]
        )
        words = [f"space={method.space}", *method.settings, *size.search, *data]
        words += size.sampled if "evaluator=from_scratch" in method.settings else ()
        words += size.scored if name == "ofa" else ()
        nas("search", search, seed, words)
    if not (retrain / "result.json").exists():
        nas("retrain", retrain, seed, [f"genotype={search / 'genotype.json'}", *size.retrain])
    status, result = read(search / "status.json"), read(retrain / "result.json")
    outcome = Outcome(status["seconds"] / 60, result["test_accuracy"], result["parameters"])
    print(
        f"{name} seed {seed}: {outcome.accuracy:.2f} % after {outcome.search_minutes:.1f} minutes", flush=True
    )
    return outcome


def nas(command: str, folder: Path, seed: int, words: list[str]) -> None:
    """One command in a process of one thread; what it says on an error is shown."""
    arguments = [sys.executable, "-m", "nas_cli", command, *words, f"seed={seed}", f"hydra.run.dir={folder}"]
    done = subprocess.run(
        arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")


def read(path: Path) -> dict[str, float]:
    content: dict[str, float] = json.loads(path.read_text())
    return content


def table(outcomes: dict[str, list[Outcome]]) -> str:
    lines = [
        "| method | kind of strategy | space | search, minutes | parameters | test accuracy, % (sd, n) |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in outcomes.items():
        method, accuracies = METHODS[name], [outcome.accuracy for outcome in found]
        spread = f"{statistics.stdev(accuracies):.2f}" if len(found) > 1 else "-"
        minutes = statistics.mean(outcome.search_minutes for outcome in found)
        parameters = statistics.mean(outcome.parameters for outcome in found)
        lines.append(
            f"| {method.title} | {method.kind} | `{method.space}` | {minutes:.1f} | {parameters:,.0f} "
            f"| {statistics.mean(accuracies):.2f} ({spread}, {len(found)}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
