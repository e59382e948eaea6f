"""The retraining step of DARTS_V2: as `nas retrain` does it against plain 32-bit floats.

    OMP_NUM_THREADS=1 python benchmarks/retrain.py [rounds]

20 cells, 36 channels, auxiliary head, drop path, batch 32, 32 x 32 pixels. *Plain* is torch's own
convolutions in contiguous memory; each further form adds one thing: the memory layout, the depthwise
convolutions of `layers/depthwise.py`, bf16. CPU seconds at one thread, interleaved; peak memory of each in a
process of its own.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from nas_cli.architecture import Genotype, read_genotype
from nas_cli.data import ImageInfo, Images
from nas_cli.layers.operations import SeparableConv
from nas_cli.network_training import NetworkTraining
from nas_cli.recipe import Recipe
from nas_cli.seeds import seeded
from nas_cli.spaces.darts import DartsSpace
from nas_cli.trainer import Trainer, computes_bf16_fast

CELLS, CHANNELS, BATCH = 20, 36, 32
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)
FORMS = {
    "plain": (True, Trainer(device="cpu", precision="fp32", memory_format="contiguous")),
    "channels last": (True, Trainer(device="cpu", precision="fp32")),
    "own depthwise": (False, Trainer(device="cpu", precision="fp32")),
    "bf16": (False, Trainer(device="cpu", precision="bf16")),
}


def make(form: str) -> NetworkTraining:
    plain, trainer = FORMS[form]
    space = DartsSpace(INFO, num_cells=CELLS, channels=CHANNELS)
    genotype = read_genotype("darts_v2")
    assert isinstance(genotype, Genotype)
    with seeded(0, "network"):
        network = space.build(space.architecture_of(genotype.choices), auxiliary_head=True)
    for module in network.modules():
        if isinstance(module, SeparableConv):
            module.plain = plain
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4 * BATCH, 3, 32, 32), generator=draws).to(torch.uint8)
    recipe = Recipe(batch_size=BATCH, cutout=16, drop_path=0.2, auxiliary_weight=0.4)
    part = Images(pixels, torch.arange(4 * BATCH) % 10)
    return NetworkTraining(network, part, INFO, recipe=recipe, trainer=trainer, seed=0)


def seconds_of_a_step(training: NetworkTraining, step: int) -> float:
    batches = next(iter(training.batches(step, step + 1)))
    started = time.process_time()
    training.step(step, *batches)
    return time.process_time() - started


def memory_gib(form: str) -> float:
    command = [sys.executable, __file__, "--memory-of", form]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--memory-of", choices=FORMS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        training = make(arguments.memory_of)
        for step in range(1, 3):  # the first step drops no paths
            seconds_of_a_step(training, step)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread")
    print(f"{CELLS} cells, {CHANNELS} channels, batch {BATCH}, 32 x 32")
    print(f"bf16 in hardware: {computes_bf16_fast(torch.device('cpu'))}")
    memory = {form: memory_gib(form) for form in FORMS}  # first: a child's peak begins at its parent's size
    trainings = {form: make(form) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for step in range(1, arguments.rounds + 2):
        for form, training in trainings.items():
            times[form].append(seconds_of_a_step(training, step))
    plain = times["plain"][1:]
    for form in FORMS:
        measured = times[form][1:]  # the first step warms up
        ratios = [base / own for base, own in zip(plain, measured, strict=True)]
        print(
            f"{form}: {statistics.median(measured):.2f} CPU seconds ({min(measured):.2f} to "
            f"{max(measured):.2f}, n={len(measured)}), plain / {form}: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), peak memory {memory[form]:.2f} GiB"
        )


if __name__ == "__main__":
    main()
