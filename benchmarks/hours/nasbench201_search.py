"""Weight-sharing searches of NAS-Bench-201 on real images; what they find is looked up in the table.

    OMP_NUM_THREADS=2 python benchmarks/hours/nasbench201_search.py IMAGES.npz TABLE.npz [strategy ...]

Runs `nas search experiment=nasbench201_cpu` (one_shot: nasbench201_one_shot) for each strategy and seed, in
outputs/ of the folder it is started in, and prints one line a search and one a strategy: CIFAR-10 test
accuracy after 200 epochs as the benchmark has it, minutes, peak memory, skip connections of the cell, and how
many epochs the collapse monitor would have derived a cell of mostly skips from.
The table is read after a search, never by it. A search that is there already is not run again.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

from nas_cli.evaluators.tabular import Table, read_table

EDGES = ("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")
FASTER = "strategy.learning_rate=1e-2"
"""Thirty times the papers' rate of the architecture, for a fifth of the benchmark's steps."""
LONGER = "recipe.epochs=80"
"""For steps that run one path an edge, or a search that ends itself: as many minutes as the others."""

SETTINGS: dict[str, list[str]] = {
    "darts": [FASTER],
    "darts_es": [FASTER, LONGER],
    "beta_darts": [FASTER],
    "drnas": [FASTER],
    "pc_darts": [FASTER],
    "gdas": [FASTER, LONGER],
    "proxyless": [LONGER],
    "enas": [LONGER],
    "one_shot": [],
}
"""The settings that differ from those of conf/strategy."""
EXPERIMENTS = {"one_shot": "nasbench201_one_shot"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("table")
    parser.add_argument("strategies", nargs="*", default=[*SETTINGS])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    table = read_table(arguments.table)
    print(f"{'strategy':<12} seed  test %  minutes  memory MB  skips   collapsed")
    for name in arguments.strategies:
        found = [report(name, seed, arguments.images, table) for seed in range(arguments.seeds)]
        print(summary(name, found))
    print(summary("random cell", random_cells(table, 1000)))


def report(name: str, seed: int, images: str, table: Table) -> float:
    """The test accuracy of what one search finds, printed with what it cost."""
    folder = Path("outputs") / "nasbench201_search" / f"{name}-{seed}"
    if not (folder / "genotype.json").exists():
        search(name, seed, images, folder)
    genotype = json.loads((folder / "genotype.json").read_text())
    status = json.loads((folder / "status.json").read_text())
    choices = genotype["choices"]
    accuracy = table.columns["c10_test200"][table.rows[spell(choices)]]
    skips = sum(option == "skip_connect" for option in choices.values())
    print(
        f"{name:<12} {seed:>4}  {accuracy:6.2f}  {status['seconds'] / 60:7.1f}"
        f"  {status['peak_memory_mb']:9.0f}  {skips} of 6  {collapsed(folder)}  {spell(choices)}",
        flush=True,
    )
    return accuracy


def collapsed(folder: Path) -> str:
    """What the monitor wrote of each epoch; strategies that learn no gates have none."""
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shares = [epoch["skip_share_cell"] for epoch in epochs if "skip_share_cell" in epoch]
    return f"{sum(share > 0.5 for share in shares)} of {len(shares)}" if shares else "-"


def search(name: str, seed: int, images: str, folder: Path) -> None:
    experiment = EXPERIMENTS.get(name, "nasbench201_cpu")
    words = ["search", f"experiment={experiment}", f"strategy={name}", f"seed={seed}"]
    words += [f"dataset.path={images}", f"hydra.run.dir={folder}", *SETTINGS.get(name, [])]
    subprocess.run([sys.executable, "-m", "nas_cli", *words], check=True, capture_output=True)


def spell(choices: dict[str, str]) -> str:
    """The benchmark's string."""
    operations = [f"{choices[edge]}~{edge[0]}" for edge in EDGES]
    nodes = operations[:1], operations[1:3], operations[3:]
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def random_cells(table: Table, count: int) -> list[float]:
    return random.Random(0).sample(table.columns["c10_test200"], count)


def summary(name: str, accuracies: list[float]) -> str:
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{name:<12} mean {statistics.mean(accuracies):.2f}, sd {spread:.2f}, n={len(accuracies)}"


if __name__ == "__main__":
    main()
