"""All figures of this machine: one table, and benchmarks/results/<machine>.json.

    OMP_NUM_THREADS=1 python benchmarks/run.py [row ...] [--rounds 3] [--list]

For each space and each strategy a step as `nas search` takes it (the weights' and the architecture's part on
a batch each, optimisers included), beside the same step in plain form: every candidate by its definition, in
contiguous memory. Then DARTS, PC-DARTS, ENAS and Once-for-All beside the plain DARTS step with all gradients,
which stands for the public implementations; the retraining of DARTS_V2; data; and what sampling strategies
cost by themselves.

CPU seconds at one thread, medians of interleaved rounds; peak memory of each form in a process of its own;
operations are the profiler's leaves that compute, a figure that no noisy machine can blur; the limit is that
of `step_limit.py`, measured in the same run. The other scripts here go into each of these, and run alone.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import data
import ofa
import pc_darts
import retrain
import sampling
import tabular
import torch
from omegaconf import DictConfig, OmegaConf
from operations import count_leaves
from step_limit import limit_of

from nas_cli.catalogue import options
from nas_cli.config import build
from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.datasets.npz import Npz
from nas_cli.recipe import Recipe
from nas_cli.run.environment import environment, processor_name
from nas_cli.seeds import stream
from nas_cli.space import SearchSpace
from nas_cli.strategies.enas import Enas
from nas_cli.strategy import Problem, Strategy
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from nas_cli.weight_sharing import WeightSharingStrategy

BATCH = 16
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)
OF_PAPER = {"darts": {"num_cells": 8, "channels": 16}}
"""Spaces that are measured at their paper's size; the others have the settings of conf/space."""
SEARCHED_BY, SEARCHES = {"macro": "ofa"}, {"ofa": "mobilenet"}
"""What goes with spaces that DARTS cannot search, and with strategies that cannot search NAS-Bench-201."""
EVERYTHING_OPEN = [
    {"opens": [], "share": 0.001},
    {"opens": ["kernel", "depth", "width"], "share": 0.999, "num_paths": 4, "learning_rate": 0.1},
]
SMALL_SEARCH = {"phases": EVERYTHING_OPEN, "warmup_epochs": 0}
RESULTS = Path(__file__).parent / "results"

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Contest:
    """Forms that take turns. `reference` is what the others are held to; `has_limit`: it does their work."""

    forms: Mapping[str, Callable[[], Step]]
    reference: str
    images: int = BATCH
    has_limit: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `ratio` is the reference's time over this one's, the median of the rounds."""

    name: str
    seconds: float
    images_a_second: float
    memory_gib: float
    operations: int
    reference_seconds: float
    reference_memory_gib: float
    ratio: float
    least_ratio: float
    most_ratio: float
    limit_seconds: float | None
    times_the_limit: float | None


# What takes part


def node_of(group: str, name: str, settings: Mapping[str, object]) -> DictConfig:
    node = cast(DictConfig, OmegaConf.load(options(group)[name]))
    node.update({key: value for key, value in settings.items() if key in node})
    return node


def space_of(name: str) -> SearchSpace:
    return build(SearchSpace, node_of("space", name, OF_PAPER.get(name, {})), INFO)


def searching(space_name: str, strategy_name: str, *, plain: bool) -> Step:
    """Each call is a step of that search, the same steps in both forms."""
    pixels = torch.randint(0, 256, (4 * BATCH, 3, 32, 32), generator=stream(0, "pixels")).to(torch.uint8)
    images = Images(pixels, torch.arange(4 * BATCH) % 10)
    problem = Problem(
        space=space_of(space_name),
        data=ImageData(INFO, images, images),
        recipe=Recipe(epochs=1, steps_per_epoch=1000, batch_size=BATCH),
        trainer=Trainer(device="cpu", memory_format="contiguous" if plain else "channels_last"),
        supernet=SupernetOptions(plain=plain),
        seed=0,
    )
    strategy = build(Strategy, node_of("strategy", strategy_name, SMALL_SEARCH), problem)
    assert isinstance(strategy, WeightSharingStrategy)
    strategy.start_epoch(0)
    batch, steps = strategy.train_data.batch(0), iter(range(1, 1000))
    if isinstance(strategy, Enas):  # a step of the weights, then one of the controller
        return lambda: (strategy.step(next(steps), batch), strategy.step(strategy.weight_steps, batch))
    return lambda: strategy.step(next(steps), batch, batch)


def both_forms(space_name: str, strategy_name: str) -> Contest:
    return Contest(
        {
            form: partial(searching, space_name, strategy_name, plain=form == "plain")
            for form in ("fast", "plain")
        },
        reference="plain",
    )


def spaces() -> dict[str, Contest]:
    """Each space under the gates of DARTS; where weights are cut from one set, Once-for-All's sandwich."""
    return {f"space {name}": both_forms(name, SEARCHED_BY.get(name, "darts")) for name in options("space")}


def strategies() -> dict[str, Contest]:
    """Each strategy that shares weights, on NAS-Bench-201 where it can search that."""
    sampling_names = set(tabular.strategies([]))
    names = [name for name in options("strategy") if name not in sampling_names]
    return {f"strategy {name}": both_forms(SEARCHES.get(name, "nasbench201"), name) for name in names}


def retraining() -> dict[str, Contest]:
    """The network of DARTS_V2 at its paper's size; the fast form is in bf16 where the processor has it."""
    retrain.BATCH = BATCH
    fast = "bf16" if retrain.computes_bf16_fast(torch.device("cpu")) else "own depthwise"
    forms = {form: partial(_retraining, own) for form, own in (("fast", fast), ("plain", "plain"))}
    return {"retrain darts_v2": Contest(forms, reference="plain")}


def _retraining(form: str) -> Step:
    training, steps = retrain.make(form), iter(range(1, 1000))  # the first step drops no paths
    return lambda: retrain.seconds_of_a_step(training, next(steps))


def against_plain_darts() -> dict[str, Contest]:
    """Methods beside the first-order DARTS step with all gradients in both passes, at the same batch."""
    pc_darts.BATCH = ofa.BATCH = BATCH
    forms: dict[str, Callable[[], Step]] = {
        "darts, 8 cells": partial(searching, "darts", "darts", plain=False),
        "pc_darts, 8 cells": partial(pc_darts.make_step, "PC-DARTS"),
        "enas, nasbench201": partial(searching, "nasbench201", "enas", plain=False),
        "ofa, MobileNetV3's size": partial(ofa.sandwich, with_teacher=False),
        "plain darts, 8 cells": pc_darts.plain_darts_step,
    }
    return {"against plain DARTS": Contest(forms, reference="plain darts, 8 cells", has_limit=False)}


def contests() -> dict[str, Contest]:
    return {**spaces(), **strategies(), **retraining(), **against_plain_darts()}


# How they are measured


def measure(name: str, contest: Contest, memory: Mapping[str, float], rounds: int) -> list[Row]:
    steps = {form: make() for form, make in contest.forms.items()}
    times: dict[str, list[float]] = {form: [] for form in steps}
    for repeat in range(rounds + 1):
        for form, step in steps.items():
            seconds = cpu_seconds(step)
            if repeat:  # the first round warms up
                times[form].append(seconds)
    limit = limit_of(steps[contest.reference]).seconds if contest.has_limit else None
    slow, rows = times[contest.reference], []
    for form in (form for form in steps if form != contest.reference):
        ratios = [theirs / ours for ours, theirs in zip(times[form], slow, strict=True)]
        median = statistics.median(times[form])
        rows.append(
            Row(
                name=name if contest.has_limit else f"{form} / {contest.reference}",
                seconds=median,
                images_a_second=contest.images / median,
                memory_gib=memory[form],
                operations=count_leaves(steps[form]).computing,
                reference_seconds=statistics.median(slow),
                reference_memory_gib=memory[contest.reference],
                ratio=statistics.median(ratios),
                least_ratio=min(ratios),
                most_ratio=max(ratios),
                limit_seconds=limit,
                times_the_limit=None if limit is None else median / limit,
            )
        )
    return rows


def cpu_seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def peak_memory(name: str, form: str) -> float:
    """GiB, of a process that does two steps. Linux counts the parent's peak in: ask first."""
    command = [sys.executable, __file__, name, "--memory-of", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(contest: Contest, form: str) -> None:
    step = contest.forms[form]()
    for _ in range(2):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


# Data and sampling


def measure_data() -> dict[str, float]:
    pipeline = {
        f"images a CPU second, batch {size}": statistics.median(data.images_a_second(size))
        for size in (64, 128)
    }
    first = {"2,000 photos, " + how: cpu for how, (cpu, _) in data.photos(2000).items()}
    file = tabular.TABLE.with_name("cifar10_20k.npz")
    if file.exists():
        first[file.name] = data.to_the_first_batch(Npz(path=str(file)))[0]
    return pipeline | {f"CPU seconds to the first batch, {what}": cpu for what, cpu in first.items()}


def measure_sampling(rounds: int) -> dict[str, float]:
    """Evaluations a CPU second through the table, and the memory of a long search."""
    if not tabular.TABLE.exists():
        return {}
    figures = {f"MB at the peak of nas search, {name}": mb for name, mb in sampling.measure_memory().items()}
    for name in sampling.NAMES:
        searches = sampling.Searches(name, 10_000)
        for how, run in (("in memory", searches.in_memory), ("with the history", searches.with_history)):
            rates = sampling.rates(run, searches.num_evaluations, rounds)
            figures[f"evaluations a CPU second, {name}, {how}"] = statistics.median(rates)
    return figures


# What is left of it


def machine() -> str:
    """The processor's model, the number of cores and torch's version, as a file can be called."""
    words = f"{processor_name()} {os.cpu_count()} cores torch {torch.__version__.partition('+')[0]}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")


def print_header() -> None:
    names = "step", "CPU s", "images/s", "GiB", "operations", "reference", "GiB", "ratio", "limit", "of limit"
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def print_row(row: Row) -> None:
    limit = "| |" if row.limit_seconds is None else f"| {row.limit_seconds:.3f} | {row.times_the_limit:.2f} |"
    print(
        f"| {row.name} | {row.seconds:.3f} | {row.images_a_second:.1f} | {row.memory_gib:.2f} "
        f"| {row.operations:,} | {row.reference_seconds:.3f} | {row.reference_memory_gib:.2f} "
        f"| {row.ratio:.2f} ({row.least_ratio:.2f} to {row.most_ratio:.2f}) {limit}",
        flush=True,
    )


def measure_all(chosen: Mapping[str, Contest], rounds: int, *, whole: bool) -> dict[str, object]:
    memory = {
        name: {form: peak_memory(name, form) for form in contest.forms} for name, contest in chosen.items()
    }
    figures = {**measure_sampling(rounds), **measure_data()} if whole else {}
    print_header()
    rows = []
    for name, contest in chosen.items():
        for row in measure(name, contest, memory[name], rounds):
            print_row(row)
            rows.append(asdict(row))
    for name, value in figures.items():
        print(f"{name}: {value:,.2f}" if value < 100 else f"{name}: {value:,.0f}")
    return {"rows": rows, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", help="such as 'space darts'; default: all, and data and sampling")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--list", action="store_true", help="the names of the rows, and nothing is measured")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = contests()
    chosen = {name: every[name] for name in arguments.rows or every}
    if arguments.list:
        print("\n".join(every))
    elif arguments.memory_of:
        print_memory(every[arguments.rows[0]], arguments.memory_of)
    else:
        measured = measure_all(chosen, arguments.rounds, whole=not arguments.rows)
        if not arguments.rows:
            RESULTS.mkdir(exist_ok=True)
            content = {"environment": environment(0), "batch": BATCH, "rounds": arguments.rounds, **measured}
            (RESULTS / f"{machine()}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
