"""The PC-DARTS step against the first-order DARTS step of the plain supernet.

    OMP_NUM_THREADS=1 python benchmarks/pc_darts.py [rounds]

A step is the weights' pass and the architecture's pass on 64 images each. DARTS is measured as the public
implementations compute it: every candidate by its definition, all channels, contiguous memory, all
gradients in both passes. PC-DARTS is what `nas search strategy=pc_darts` runs, its optimisers included. CPU
seconds at one thread, interleaved; peak memory of each in a process of its own.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.recipe import Recipe
from nas_cli.seeds import seeded, stream
from nas_cli.spaces.darts import DartsSpace
from nas_cli.strategies.pc_darts import PcDarts
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate, SupernetOptions
from nas_cli.trainer import Trainer

CELLS, CHANNELS, BATCH = 8, 16, 64
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)
FORMS = ("plain DARTS", "PC-DARTS, plain", "PC-DARTS")
Step = Callable[[], None]


def make_step(form: str) -> Step:
    return pc_darts_step(plain=form != "PC-DARTS") if form.startswith("PC") else plain_darts_step()


def plain_darts_step() -> Step:
    with seeded(0, "supernet"):
        supernet = make_space().build_supernet(SupernetOptions(plain=True))
    generator = stream(0, "images")
    images, labels = torch.randn(BATCH, 3, 32, 32, generator=generator), torch.arange(BATCH) % 10
    logits = [torch.zeros(shape, requires_grad=True) for shape in supernet.gate_shapes]
    leaves: list[Tensor] = [*supernet.parameters(), *logits]

    def step() -> None:
        for _ in ("weights", "architecture"):
            gates = [Gate.soft(rows.softmax(-1)) for rows in logits]
            torch.autograd.grad(F.cross_entropy(supernet(images, gates), labels), leaves)

    return step


def pc_darts_step(*, plain: bool) -> Step:
    pixels = torch.randint(0, 256, (4 * BATCH, 3, 32, 32), generator=stream(0, "pixels")).to(torch.uint8)
    images = Images(pixels, torch.arange(4 * BATCH) % 10)
    problem = Problem(
        space=make_space(),
        data=ImageData(INFO, images, images),
        recipe=Recipe(batch_size=BATCH),
        trainer=Trainer(device="cpu", memory_format="contiguous" if plain else "channels_last"),
        supernet=SupernetOptions(plain=plain),
        seed=0,
    )
    strategy = PcDarts(problem)
    batches = next(iter(strategy.batches(0, 1)))
    return lambda: strategy.step(0, *batches)


def make_space() -> DartsSpace:
    return DartsSpace(INFO, num_cells=CELLS, channels=CHANNELS, num_nodes=4)


def cpu_seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def memory_gib(form: str) -> float:
    """Of a process that does two steps. Linux counts the parent's peak in: ask first."""
    command = [sys.executable, __file__, "--memory-of", form]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def print_memory(form: str) -> None:
    step = make_step(form)
    for _ in range(2):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g}, n={len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print_memory(arguments.memory_of)
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, batch {BATCH}")
    print(f"{CELLS} cells, {CHANNELS} channels, 32 x 32")
    memory = {form: memory_gib(form) for form in FORMS}
    steps = {form: make_step(form) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(arguments.rounds + 1):
        for form, step in steps.items():
            times[form].append(cpu_seconds(step))
    darts = times["plain DARTS"][1:]  # the first round warms up
    for form in FORMS:
        ratios = [own / whole for own, whole in zip(times[form][1:], darts, strict=True)]
        print(
            f"{form}: {summary(times[form][1:])} CPU seconds, {summary(ratios)} of plain DARTS, "
            f"peak memory {memory[form]:.2f} GiB"
        )


if __name__ == "__main__":
    main()
