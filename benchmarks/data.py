"""How fast batches come: shift, mirror and cutout at 32 x 32, and from a file to the first batch.

OMP_NUM_THREADS=1 python benchmarks/data.py [path of cifar10_20k.npz]
"""

import statistics
import sys
import time

import torch

from nas_cli.data import Augmentation, Batches, ImageInfo, Images
from nas_cli.datasets.npz import Npz

INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, mirror=True)
AUGMENTATION = Augmentation(shift=4, mirror=True, cutout=16)
COUNT, REPEATS = 8192, 7


def images_a_second(batch_size: int) -> list[float]:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 32), generator=draws).to(torch.uint8)
    images = Images(pixels, torch.arange(COUNT) % 10)
    batches = Batches(images, INFO, batch_size=batch_size, seed=0, augmentation=AUGMENTATION)
    rates = []
    for repeat in range(REPEATS + 1):
        started = time.process_time()
        for _ in batches.steps(len(batches) * repeat, len(batches) * (repeat + 1)):
            pass
        rates.append(COUNT / (time.process_time() - started))
    return rates[1:]  # the first pass warms up


def main() -> None:
    torch.set_num_threads(1)
    for batch_size in (64, 128):
        rates = images_a_second(batch_size)
        print(
            f"batch {batch_size}: {statistics.median(rates):,.0f} images a CPU second "
            f"({min(rates):,.0f} to {max(rates):,.0f}, n={REPEATS})"
        )
    if len(sys.argv) > 1:
        started = time.perf_counter()
        data = Npz(path=sys.argv[1]).load()
        next(Batches(data.train, data.info, batch_size=64, seed=0, augmentation=AUGMENTATION).steps(0, 1))
        print(f"{sys.argv[1]}: {time.perf_counter() - started:.2f} s to the first batch")


if __name__ == "__main__":
    main()
