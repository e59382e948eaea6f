"""A step of DARTS by order: first, second with the exact product, second with finite differences.

    OMP_NUM_THREADS=1 python benchmarks/darts_orders.py [rounds]

A step is the architecture's and the weights' together. CPU seconds at one thread, interleaved; peak memory of
each in a process of its own.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.recipe import Recipe
from nas_cli.spaces.darts import DartsSpace
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer

CELLS, CHANNELS, BATCH = 8, 16, 32
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)


def make(form: str) -> Darts:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4 * BATCH, 3, 32, 32), generator=draws).to(torch.uint8)
    images = Images(pixels, torch.arange(4 * BATCH) % 10)
    problem = Problem(
        space=DartsSpace(INFO, num_cells=CELLS, channels=CHANNELS),
        data=ImageData(INFO, images, images),
        recipe=Recipe(batch_size=BATCH),
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=0,
    )
    if form == "first order":
        return Darts(problem)
    return Darts(problem, order=2, hessian="exact" if form == "exact" else "finite_differences")


FORMS = ("first order", "exact", "finite differences")


def seconds_of_a_step(darts: Darts, step: int) -> float:
    batches = next(iter(darts.batches(step, step + 1)))
    started = time.process_time()
    darts.step(step, *batches)
    return time.process_time() - started


def memory_gib(form: str) -> float:
    command = [sys.executable, __file__, "--memory-of", form]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--memory-of", choices=FORMS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        darts = make(arguments.memory_of)
        for step in range(2):
            seconds_of_a_step(darts, step)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread")
    print(f"{CELLS} cells, {CHANNELS} channels, batch {BATCH}, 32 x 32")
    memory = {form: memory_gib(form) for form in FORMS}  # first: a child's peak begins at its parent's size
    searches = {form: make(form) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for step in range(arguments.rounds + 1):
        for form, darts in searches.items():
            times[form].append(seconds_of_a_step(darts, step))
    first = times["first order"][1:]
    for form in FORMS:
        measured = times[form][1:]  # the first step warms up
        ratios = [own / base for own, base in zip(measured, first, strict=True)]
        print(
            f"{form}: {statistics.median(measured):.2f} CPU seconds ({min(measured):.2f} to "
            f"{max(measured):.2f}, n={len(measured)}), {statistics.median(ratios):.2f} x first order, "
            f"peak memory {memory[form]:.2f} GiB"
        )


if __name__ == "__main__":
    main()
