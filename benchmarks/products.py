"""Products of many pixels with small matrices: MKL against oneDNN on this processor.

    OMP_NUM_THREADS=1 python benchmarks/products.py

The arithmetic of 1x1 convolutions as a supernet's cells have it, at batch 64: forward, and the gradient of
the matrices. `layers/products.py` chooses oneDNN on AMD's processors and MKL on others. Medians of
interleaved rounds; between two calls other memory is read, so that nothing is in a cache.
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from nas_cli.allocator import settle_allocator
from nas_cli.layers import products
from nas_cli.run.environment import processor_name

ROUNDS = 9
SHAPES = ((1, 65536, 16), (1, 16384, 32), (1, 4096, 64), (8, 16384, 32), (8, 4096, 64))
"""Edges side by side, pixels, channels."""


def milliseconds(run: Callable[[], object], amd: bool, other: Tensor) -> float:
    other.add_(1.0)
    with mock.patch.object(products, "is_amd", return_value=amd):
        started = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - started)


def compare(name: str, run: Callable[[], object], flops: float) -> None:
    other = torch.zeros(2**25)
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for onednn, seconds in found.items():
            seconds.append(milliseconds(run, onednn, other))
    words = [
        f"{library} {statistics.median(found[onednn]):6.2f} ms, "
        f"{flops / statistics.median(found[onednn]) / 1e6:4.0f} GFLOP/s"
        for library, onednn in (("MKL", False), ("oneDNN", True))
    ]
    print(f"{name:44s}", *words, sep="   ")


def main() -> None:
    settle_allocator()
    print(f"{processor_name()}, torch {torch.__version__}, threads: {torch.get_num_threads()}")
    for edges, count, channels in SHAPES:
        blocks = torch.randn(count, edges, channels).transpose(0, 1)
        matrices = torch.randn(edges, channels, channels)
        flops = 2.0 * edges * count * channels**2
        with torch.no_grad():
            size = f"{edges} x {count} pixels, {channels} channels"
            compare(f"{size}: forward", lambda b=blocks, m=matrices: products.product(b, m), flops)  # type: ignore[misc]
            compare(f"{size}: matrices", lambda b=blocks: products.inner_products(b, b), flops)  # type: ignore[misc]


if __name__ == "__main__":
    main()
