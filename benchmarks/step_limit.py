"""How fast a whole step could be: what its convolutions and copies alone take on this machine.

The work is what torch dispatches in a step, forward and backward as the method asks for them: a path that is
not taken, a gradient that is not needed and a teacher's pass without gradients count for what they are. Give
it a plain form, whose convolutions are those of the definition.

Each convolution takes what oneDNN's forward pass takes at its shape, measured here, and so does each of its
gradients; dilation costs nothing. Normalisation and pooling read and write their images, and later their
gradients, at the rate of a large copy. ReLU, sums and gates are free.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTION, GRADIENTS = "aten.convolution.default", "aten.convolution_backward.default"


@dataclass(frozen=True, slots=True)
class Limit:
    """CPU seconds of one step, and the work that takes them."""

    gigaflop: float
    convolutions: float
    copies: float

    @property
    def seconds(self) -> float:
        return self.convolutions + self.copies


@dataclass(frozen=True, slots=True)
class Convolution:
    """One shape of convolution: what it reads and what it is."""

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    groups: int

    @property
    def flop(self) -> int:
        """A multiplication and an addition are two."""
        num_images, _, height, width = self.images
        pixels = num_images * -(-height // self.stride) * -(-width // self.stride)
        return 2 * pixels * torch.Size(self.weight).numel()

    def seconds(self) -> float:
        images = torch.randn(self.images).contiguous(memory_format=torch.channels_last)
        weight, stride = torch.randn(self.weight), self.stride
        if self.weight[2] == 1:  # only every second pixel is read
            images = images[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
            stride = 1
        padding = self.weight[2] // 2
        return fastest(lambda: F.conv2d(images, weight, None, stride, padding, 1, self.groups))


@torch.no_grad()
def limit_of(steps: Callable[[], object]) -> Limit:
    """The limit of what is run, with gradients where it asks for them."""
    work = _Work()
    with work, torch.enable_grad():
        steps()
    gigaflop = sum(shape.flop * count for shape, count in work.convolutions.items()) / 1e9
    seconds = sum(shape.seconds() * count for shape, count in work.convolutions.items())
    return Limit(gigaflop, seconds, work.moved / copied_bytes_a_second())


def copied_bytes_a_second() -> float:
    """Read and written bytes together, of arrays that no cache holds."""
    source, target = torch.zeros(2**25), torch.zeros(2**25)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source))


def fastest(run: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of some runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


class _Work(TorchDispatchMode):
    """Counts convolutions by shape, and the bytes that normalisation and pooling read and write."""

    convolutions: Counter[Convolution]
    moved: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convolutions = Counter()
        self.moved = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        name = str(function)
        if name == CONVOLUTION:
            images, weight, _, stride, *_, groups = arguments
            self._count(images, weight, stride, groups, 1)
        elif name == GRADIENTS:
            _, images, weight, _, stride, *_, groups, mask = arguments
            self._count(images, weight, stride, groups, sum(mask[:2]))
        elif "batch_norm" in name or "pool2d" in name:
            written = result if isinstance(result, Tensor) else result[0]
            self.moved += arguments[0].nbytes + (0 if written is None else written.nbytes)
        return result

    def _count(self, images: Tensor, weight: Tensor, stride: list[int], groups: int, times: int) -> None:
        self.convolutions[Convolution(tuple(images.shape), tuple(weight.shape), stride[0], groups)] += times
