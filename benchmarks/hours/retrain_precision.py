"""Whether retraining in bf16 ends where retraining in fp32 does: the same short training, under each seed.

    OMP_NUM_THREADS=1 python benchmarks/hours/retrain_precision.py cifar10_20k.npz [seeds]

DARTS_V2 of 5 cells and 16 channels, 300 steps of 64 images (drop path, auxiliary head, cutout), then tested
in its own precision. Under one seed the weights begin alike and see the same batches.
"""

import argparse
import statistics
from pathlib import Path

import torch

from nas_cli.architecture import Genotype, read_genotype
from nas_cli.data import ImageData
from nas_cli.datasets.npz import Npz
from nas_cli.network_training import NetworkTraining, accuracy
from nas_cli.recipe import Recipe
from nas_cli.seeds import seeded
from nas_cli.spaces.darts import DartsSpace
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs

RECIPE = Recipe(
    epochs=6,
    steps_per_epoch=50,
    batch_size=64,
    learning_rate=0.05,
    final_learning_rate=0.0,
    warmup_epochs=1,
    cutout=8,
    drop_path=0.1,
    auxiliary_weight=0.4,
)


def test_accuracy(data: ImageData, trainer: Trainer, seed: int) -> float:
    space = DartsSpace(data.info, num_cells=5, channels=16)
    genotype = read_genotype("darts_v2")
    assert isinstance(genotype, Genotype)
    with seeded(seed, "network"):
        network = space.build(space.architecture_of(genotype.choices), auxiliary_head=True)
    training = NetworkTraining(network, data.train, data.info, recipe=RECIPE, trainer=trainer, seed=seed)
    run_epochs(training)
    return accuracy(training.trained, data.test, data.info, trainer, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("seeds", nargs="?", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = Npz(path=str(arguments.images)).load()
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(arguments.seeds):
        found["fp32"].append(test_accuracy(data, Trainer(device="cpu", precision="fp32"), seed))
        found["bf16"].append(test_accuracy(data, Trainer(device="cpu", precision="bf16"), seed))
        print(
            f"seed {seed}: {found['fp32'][-1]:.2f} % in fp32, {found['bf16'][-1]:.2f} % in bf16", flush=True
        )
    for precision, values in found.items():
        spread = f"{min(values):.2f} to {max(values):.2f}, n={len(values)}"
        print(f"{precision}: {statistics.mean(values):.2f} % ({spread})")


if __name__ == "__main__":
    main()
