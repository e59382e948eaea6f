"""What it costs to train on two processes: each has as many images a step as one process alone.

    OMP_NUM_THREADS=1 python benchmarks/ranks.py [--steps 5] [--rounds 3]

The search network of DARTS (8 cells, 16 channels, 64 images a process) with one process, with two, and with
two that share their batch statistics, in turn. Seconds a step, images a second, and the time that one
exchange of all gradients takes by itself.
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from nas_cli import ranks
from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.recipe import Recipe
from nas_cli.seeds import stream
from nas_cli.spaces.darts import DartsSpace
from nas_cli.strategies.darts import Darts
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer

IMAGES = 64
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)
CASES = {"one process": (1, False), "two": (2, False), "two, shared statistics": (2, True)}


def darts(num_ranks: int, sync_batch_norm: bool) -> Darts:
    size = IMAGES * num_ranks
    pixels = torch.randint(0, 256, (4 * size, 3, 32, 32), generator=stream(0, "pixels")).to(torch.uint8)
    images = Images(pixels, torch.arange(4 * size) % 10)
    problem = Problem(
        space=DartsSpace(INFO, num_cells=8, channels=16),
        data=ImageData(INFO, images, images),
        recipe=Recipe(epochs=1, steps_per_epoch=1000, batch_size=size),
        trainer=Trainer(device="cpu", devices=num_ranks, sync_batch_norm=sync_batch_norm),
        supernet=SupernetOptions(),
        seed=0,
    )
    return Darts(problem)


def measure(rank: int, case: str, port: int, num_steps: int, file: Path) -> None:
    """Writes the median seconds of a step, and of an exchange of gradients."""
    num_ranks, sync_batch_norm = CASES[case]
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    os.environ.update({key: str(value) for key, value in own.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with ranks.joined("cpu"):
        search = darts(num_ranks, sync_batch_norm)
        search.start_epoch(0)
        seconds = []
        for step, batches in enumerate(search.batches(0, num_steps + 1)):
            started = time.perf_counter()
            search.step(step, *batches)
            seconds.append(time.perf_counter() - started)
        weights = [weight.detach() for weight in search.supernet.parameters()]
        exchanges = []
        for _ in range(5):
            started = time.perf_counter()
            ranks.average(weights)
            exchanges.append(time.perf_counter() - started)
    if rank == 0:
        found = statistics.median(seconds[1:]), statistics.median(exchanges)
        file.write_text(" ".join(map(str, found)))


def seconds_of(case: str, num_steps: int) -> tuple[float, float]:
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port, file = free.getsockname()[1], Path(folder) / "seconds"
        free.close()
        spawn(measure, (case, port, num_steps, file), nprocs=CASES[case][0])
        step, exchange = map(float, file.read_text().split())
    return step, exchange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = {case: [seconds_of(case, arguments.steps)] for case in CASES}
    for _ in range(arguments.rounds - 1):
        for case, seconds in found.items():
            seconds.append(seconds_of(case, arguments.steps))
    print(f"{'':<24} step, s  images a second  exchange of all gradients, ms")
    for case, seconds in found.items():
        steps, exchanges = zip(*seconds, strict=True)
        step = statistics.median(steps)
        pace = CASES[case][0] * 2 * IMAGES / step
        print(
            f"{case:<24} {step:7.2f}  {pace:15.1f}  {1e3 * statistics.median(exchanges):.1f}"
            f"  (steps {min(steps):.2f} to {max(steps):.2f})"
        )


if __name__ == "__main__":
    main()
