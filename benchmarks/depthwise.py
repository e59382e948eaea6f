"""The gradients of depthwise convolutions: oneDNN's own against those of `layers/depthwise_functions.py`.

    OMP_NUM_THREADS=1 python benchmarks/depthwise.py [--bf16]

Images of 16 x 16 pixels, `channels_last`, batch 64. Medians of interleaved rounds, on new images each time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nas_cli.allocator import settle_allocator
from nas_cli.layers.depthwise_functions import Geometry, Source, convolve, gradients_of
from nas_cli.run.environment import processor_name

ROUNDS = 15
CHANNELS = (16, 32, 36, 64, 72, 128)
GEOMETRIES = tuple(Geometry(kernel, stride, kernel // 2, 1) for stride in (1, 2) for kernel in (3, 5, 7))

Gradient = Callable[[Tensor, Tensor, Tensor], object]


def onednn(geometry: Geometry, *, of_images: bool) -> Gradient:
    sizes = ((size,) * 2 for size in (geometry.stride, geometry.padding, geometry.dilation))
    stride, padding, dilation = sizes

    def gradient(images: Tensor, weight: Tensor, arriving: Tensor) -> object:
        return torch.ops.aten.convolution_backward(
            arriving,
            images,
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            images.shape[1],
            (of_images, not of_images, False),
        )

    return gradient


def ours(geometry: Geometry, *, of_images: bool) -> Gradient:
    return lambda images, weight, arriving: gradients_of(
        geometry, Source(images), weight, arriving, (of_images, not of_images)
    )


def microseconds(gradient: Gradient, images: list[Tensor], weight: Tensor, arriving: Tensor) -> float:
    started = time.perf_counter()
    for batch in images:
        gradient(batch, weight, arriving)
    return 1e6 * (time.perf_counter() - started) / len(images)


def compare(geometry: Geometry, channels: int, dtype: torch.dtype, *, of_images: bool) -> str:
    images = [
        torch.randn(64, channels, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    ]
    weight = torch.randn(channels, 1, geometry.kernel, geometry.kernel, dtype=dtype)
    arriving = convolve(geometry, images[0], weight)
    both = [make(geometry, of_images=of_images) for make in (onednn, ours)]
    rounds = [[microseconds(gradient, images, weight, arriving) for gradient in both] for _ in range(ROUNDS)]
    theirs, own = (statistics.median(column) for column in zip(*rounds, strict=True))
    return f"{theirs:6.0f} -> {own:5.0f} ({theirs / own:4.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bf16", action="store_true")
    dtype = torch.bfloat16 if parser.parse_args().bf16 else torch.float32
    settle_allocator()
    print(f"{processor_name()}, torch {torch.__version__}, threads: {torch.get_num_threads()}, {dtype}")
    with torch.no_grad():
        for of_images in (True, False):
            print(f"microseconds, gradient of the {'images' if of_images else 'weights'}: oneDNN's -> ours")
            for geometry in GEOMETRIES:
                found = [compare(geometry, channels, dtype, of_images=of_images) for channels in CHANNELS]
                print(f"  kernel {geometry.kernel}, stride {geometry.stride}:", *found, sep="  ")


if __name__ == "__main__":
    main()
