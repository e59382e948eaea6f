"""How fast batches come: shift, mirror and cutout at 32 x 32, and from files to the first batch.

    OMP_NUM_THREADS=1 python benchmarks/data.py [path of cifar10_20k.npz] [--photos 10000]

The photos are JPEG files of 224 x 224 pixels in a temporary folder, read without the cache of decoded images,
then into it, then from it. One thread computes, two decode.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nas_cli.data import Augmentation, Batches, Dataset, ImageInfo, Images
from nas_cli.datasets.folder import Folder
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


def to_the_first_batch(dataset: Dataset) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    data = dataset.load()
    next(Batches(data.train, data.info, batch_size=64, seed=0, augmentation=AUGMENTATION).steps(0, 1))
    return time.process_time() - cpu, time.perf_counter() - wall


def make_photos(folder: Path, count: int) -> None:
    """Smooth colours, 17 kB each."""
    draws = np.random.default_rng(0)
    for name in INFO.class_names:
        (folder / name).mkdir(parents=True)
    for k in range(count):
        small = Image.fromarray(draws.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        photo = small.resize((224, 224), Image.Resampling.BICUBIC)
        photo.save(folder / INFO.class_names[k % len(INFO.class_names)] / f"{k}.jpg", quality=90)


def photos(count: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds to the first batch of that many photos."""
    with tempfile.TemporaryDirectory() as root:
        make_photos(Path(root) / "photos", count)
        folder = partial(Folder, path=f"{root}/photos", cache=f"{root}/cache")
        return {
            "without the cache": to_the_first_batch(folder(cache_gb=0)),
            "decoded into the cache": to_the_first_batch(folder()),
            "from the cache": to_the_first_batch(folder()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", nargs="?", help="an .npz file of images")
    parser.add_argument("--photos", type=int, default=0, help="JPEG files to make and read; 10,000 take 2 GB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for batch_size in (64, 128):
        rates = images_a_second(batch_size)
        print(
            f"batch {batch_size}: {statistics.median(rates):,.0f} images a CPU second "
            f"({min(rates):,.0f} to {max(rates):,.0f}, n={REPEATS})"
        )
    if arguments.file:
        cpu, wall = to_the_first_batch(Npz(path=arguments.file))
        print(f"{arguments.file}: {cpu:.2f} CPU seconds, {wall:.2f} s to the first batch")
    for how, (cpu, wall) in photos(arguments.photos).items() if arguments.photos else ():
        print(f"{arguments.photos:,} photos, {how}: {cpu:.2f} CPU seconds, {wall:.2f} s to the first batch")


if __name__ == "__main__":
    main()
