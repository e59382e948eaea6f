"""Once-for-All: what its step costs, and what progressive shrinking buys.

    OMP_NUM_THREADS=1 python benchmarks/ofa.py [--rounds 5]
    OMP_NUM_THREADS=1 python benchmarks/ofa.py [shrinking] [at_once] ... --images cifar10_20k.npz
        [--steps 1000] [--seed 0]

The first: a step of four sub-networks of a network of MobileNetV3's size, batch 64 at 32 pixels, with and
without the teacher, in CPU seconds at one thread; beside it the plain first-order DARTS step of
`pc_darts.py`, at a quarter of that batch. MobileNetV3 halves images of 32 pixels in its stem, and this space
does not: so they are resized to 16. The last stage then has maps of 2x2 where MobileNetV3's have one pixel.

The second: a small space on CIFAR-10, the same number of steps each. `shrinking` is conf/strategy/ofa.yaml,
`shrinking_faster` the same with the recipe's learning rate in every phase, `shrinking_alone` that without a
teacher; `at_once` has everything open from the first step, four sub-networks a step and no teacher. Mean
accuracy of 50 seeded sub-networks on 2,000 images kept out, their batch statistics measured anew.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pc_darts
import torch

from nas_cli.architecture import Architecture
from nas_cli.data import Batch, ImageData, ImageInfo, Images
from nas_cli.datasets.npz import Npz
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.recipe import Recipe
from nas_cli.shrinking import Phase
from nas_cli.spaces.mobilenet import MobileNet
from nas_cli.strategies.ofa import PHASES, Ofa
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs

BATCH, NUM_PATHS, NUM_SUB_NETWORKS, STEPS_PER_EPOCH = 64, 4, 50, 100
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, mirror=True)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}, n={len(values)})"


# A step


def large_problem() -> Problem:
    space = MobileNet(
        INFO,
        stage_channels=(24, 40, 80, 112, 160),
        stage_strides=(2, 2, 2, 1, 1),
        head_channels=1280,
        resolution=16,
        activation="hard_swish",
    )
    pixels = torch.randint(0, 256, (4 * BATCH, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(len(pixels)) % 10)
    recipe = Recipe(epochs=1, steps_per_epoch=1000, batch_size=BATCH)
    trainer, data = Trainer(device="cpu"), ImageData(INFO, images, images)
    return Problem(space, data, recipe, trainer, SupernetOptions(), seed=0)


def sandwich(*, with_teacher: bool) -> Callable[[], None]:
    """A step of the last phase; each call draws other sub-networks, the same for both."""
    everything = Phase(opens=("kernel", "depth", "width"), share=0.999, num_paths=NUM_PATHS)
    ofa = Ofa(
        large_problem(),
        phases=(Phase(opens=(), share=0.001), everything),
        distillation_weight=1.0 if with_teacher else 0.0,
    )
    ofa.start_epoch(0)
    batch: Batch = ofa.train_data.batch(0)
    steps = iter(range(1, 1000))
    return lambda: ofa.step(next(steps), batch, batch)


def measure_step(rounds: int) -> None:
    pc_darts.BATCH = BATCH // 4
    runs = {
        "four sub-networks": sandwich(with_teacher=False),
        "with the teacher": sandwich(with_teacher=True),
        "plain DARTS step at a quarter of the batch": pc_darts.plain_darts_step(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(rounds + 1):  # the first round warms up
        for name, run in runs.items():
            taken = cpu_seconds(run)
            if repeat:
                seconds[name].append(taken)
    for name, values in seconds.items():
        say(f"{name}: {summary(values)} CPU seconds")
    sandwiches, _, darts_steps = seconds.values()
    shares = [ours / (4 * plain) for ours, plain in zip(sandwiches, darts_steps, strict=True)]
    say(f"four sub-networks / plain DARTS step at batch {BATCH}: {summary(shares)}")


# What progressive shrinking buys


def small_problem(path: str, num_steps: int, seed: int) -> Problem:
    data = Npz(path=path).load()
    space = MobileNet(
        data.info,
        stem_channels=8,
        first_channels=8,
        stage_channels=(12, 16, 24),
        stage_strides=(2, 2, 2),
    )
    recipe = Recipe(
        epochs=num_steps // STEPS_PER_EPOCH,
        steps_per_epoch=STEPS_PER_EPOCH,
        batch_size=BATCH,
        weights_share=0.9,
        learning_rate=0.1,
        warmup_epochs=0.5,
        weight_decay=1e-4,
    )
    return Problem(space, data, recipe, Trainer(device="cpu"), SupernetOptions(), seed=seed)


def trained(problem: Problem, how: str) -> Ofa:
    everything = Phase(opens=("kernel", "depth", "width"), share=1.0, num_paths=NUM_PATHS)
    faster = tuple(replace(phase, learning_rate=1.0) for phase in PHASES)
    phases, distillation_weight = {
        "shrinking": (PHASES, 1.0),
        "shrinking_faster": (faster, 1.0),
        "shrinking_alone": (faster, 0.0),
        "at_once": ((everything,), 0.0),
    }[how]
    ofa = Ofa(problem, phases=phases, distillation_weight=distillation_weight)
    run_epochs(ofa)
    return ofa


def measure_training(path: str, how: str, num_steps: int, seed: int) -> None:
    problem = small_problem(path, num_steps, seed)
    start = time.process_time()
    ofa = trained(problem, how)
    seconds = time.process_time() - start
    evaluator, rng = SharedWeights(problem, ofa.supernet), random.Random(0)
    drawn = [problem.space.sample(rng) for _ in range(NUM_SUB_NETWORKS)]
    accuracies = [evaluator.evaluate(architecture).score for architecture in drawn]
    extremes = [
        evaluator.evaluate(
            Architecture(tuple(pick * (len(choice.options) - 1) for choice in problem.space.choices))
        )
        for pick in (0, 1)
    ]
    say(f"{how}: smallest {extremes[0].score:.2f} %, largest {extremes[1].score:.2f} %")
    say(
        f"{how}: {statistics.mean(accuracies):.2f} % (standard deviation {statistics.stdev(accuracies):.2f}, "
        f"n={len(accuracies)}) after {num_steps} steps, {seconds / 60:.1f} CPU minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("how", nargs="*", default=["shrinking", "at_once"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", help="an .npz file of images; without one only the step is measured")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the supernet; the sub-networks are the same")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.images is None:
        measure_step(arguments.rounds)
        return
    for how in arguments.how:
        measure_training(arguments.images, how, arguments.steps, arguments.seed)


if __name__ == "__main__":
    main()
