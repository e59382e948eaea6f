"""How many of NAS-Bench-201's 15,625 networks have exactly the parameters and multiply-adds of the table.

    python benchmarks/nasbench201_parameters.py [--data FOLDER] [--every 50]

Parameters are counted for every row, multiply-adds for every fiftieth (`--every 1`: all). Nothing is
computed: the networks are built on the meta device.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from nas_cli.architecture import GenotypeText
from nas_cli.cost import count_parameters, multiply_adds
from nas_cli.data import ImageInfo
from nas_cli.spaces.nasbench201 import NasBench201

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR10 = ImageInfo(
    channels=3,
    size=32,
    class_names=tuple(str(k) for k in range(10)),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    mirror=True,
)
# The table counts the classifier's biases as multiply-adds.
NUM_BIASES = 10


def main() -> None:
    arguments = _arguments()
    table = np.load(arguments.data / "nasbench201.npz")
    spellings = [spelling.decode() for spelling in table["arch"]]
    parameters = np.rint(table["c10_params_from_arch_m"] * 1e6).astype(int)
    adds = np.rint(table["c10_flops_from_arch_m"] * 1e6).astype(int) - NUM_BIASES
    space = NasBench201(CIFAR10, num_cells=5, channels=16)
    start, equal_parameters, equal_adds, counted = time.perf_counter(), 0, 0, 0
    for row, spelling in enumerate(spellings):
        with torch.device("meta"):
            network = space.build(space.parse(GenotypeText(spelling)))
        equal_parameters += count_parameters(network) == parameters[row]
        if row % arguments.every == 0:
            counted += 1
            equal_adds += multiply_adds(network, CIFAR10) == adds[row]
    seconds = time.perf_counter() - start
    sys.stdout.write(f"parameters: {equal_parameters} of {len(spellings)} networks agree with the table\n")
    sys.stdout.write(f"multiply-adds: {equal_adds} of {counted} networks agree ({seconds:.0f} s in all)\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", SHARED)))
    parser.add_argument("--every", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
