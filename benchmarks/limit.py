"""How fast one forward and backward pass could be: what convolutions and copies alone take on this machine.

Every convolution of the network takes what oneDNN's forward pass takes at its shape, measured here, times
three: the gradients of images and of weights are as much work each. Dilation costs nothing. Every batch
normalisation and every pooling reads and writes its images once, and its gradients once, at the rate of a
large copy; ReLU, sums and gates are free.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Convolution:
    """One shape of convolution: what it reads and what it is."""

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    groups: int

    @property
    def flop(self) -> int:
        """Of the forward pass; a multiplication and an addition are two."""
        n, _, h, w = self.images
        out, into, rows, columns = self.weight
        return 2 * n * (h // self.stride) * (w // self.stride) * out * into * rows * columns

    def seconds(self) -> float:
        x = torch.randn(self.images).contiguous(memory_format=torch.channels_last)
        weight, stride = torch.randn(self.weight), self.stride
        if self.weight[2] == 1:  # only every second pixel is read
            x, stride = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
        padding = self.weight[2] // 2
        return fastest(lambda: F.conv2d(x, weight, None, stride, padding, 1, self.groups))


def fastest(run: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of the fastest of some runs, after one that warms up."""
    run()
    return min(cpu_seconds(run) for _ in range(repeats))


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def copied_bytes_a_second() -> float:
    """Read and written bytes together, of arrays that no cache holds."""
    source, target = torch.zeros(2**25), torch.zeros(2**25)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source))


@dataclass(frozen=True, slots=True)
class Limit:
    """Seconds of one forward and backward pass, and where they come from."""

    gigaflop: float
    convolutions: float
    copies: float

    @property
    def seconds(self) -> float:
        return self.convolutions + self.copies


@torch.no_grad()
def measure_limit(network: nn.Module, run: Callable[[], Tensor]) -> Limit:
    """`run` is a forward pass of the network in its plain form, whose modules are watched."""
    convolutions, moved = _work_of(network, run)
    gigaflop = 3 * sum(shape.flop * count for shape, count in convolutions.items()) / 1e9
    seconds = 3 * sum(shape.seconds() * count for shape, count in convolutions.items())
    return Limit(gigaflop, seconds, 2 * moved / copied_bytes_a_second())


def _work_of(network: nn.Module, run: Callable[[], Tensor]) -> tuple[Counter[Convolution], int]:
    """The convolutions by shape, and the bytes that normalisation and pooling read and write."""
    convolutions: Counter[Convolution] = Counter()
    moved = 0

    def watch(module: nn.Module, arguments: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal moved
        if isinstance(module, nn.Conv2d):
            shapes = tuple(arguments[0].shape), tuple(module.weight.shape)
            convolutions[Convolution(*shapes, module.stride[0], module.groups)] += 1
        else:
            moved += arguments[0].nbytes + result.nbytes

    watched = nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d
    handles = [
        module.register_forward_hook(watch) for module in network.modules() if isinstance(module, watched)
    ]
    run()
    for handle in handles:
        handle.remove()
    return convolutions, moved
