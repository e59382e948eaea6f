"""How long a forward pass takes on this machine: several things in turn, so that noise hits all alike."""

import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from nas_cli.run.environment import gpu_name, processor_name


@dataclass(frozen=True, slots=True)
class Conditions:
    """Where and how latencies are measured. `processor`: the name of what computes."""

    processor: str
    device: str
    threads: int
    batch_size: int
    precision: str = "fp32"

    @classmethod
    def here(cls, device: str, threads: int, batch_size: int) -> Self:
        return cls(name_of(device), device, threads, batch_size)

    @property
    def where(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else ""
        return f"{self.processor}{threads}, {self.precision}"

    @property
    def text(self) -> str:
        return f"{self.where}, batch {self.batch_size}"


def name_of(device: str) -> str:
    """The processor or GPU that computes on this machine's device of that kind."""
    return (gpu_name() if device == "cuda" else processor_name()) or device


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call, by the rounds in which it was timed."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quickest(self) -> float:
        """What the call takes when nothing disturbs it: of many rounds that hardly depends on other work."""
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """From the quickest round to the slowest, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


def measure(
    forwards: Sequence[Callable[[], object]],
    conditions: Conditions,
    seconds: float = 0.05,
    rounds: int = 5,
) -> list[Timing]:
    """Each call, timed in turn for so many seconds a round, at least once; all warm up first.

    One thread of a processor is measured in CPU time, so that other work on the machine disturbs it less.
    """
    alone = conditions.device == "cpu" and conditions.threads == 1
    clock = time.process_time if alone else time.perf_counter
    timers = [timeit.Timer(forward, timer=clock) for forward in forwards]
    with _threads(conditions.threads):
        counts = [max(1, round(2 * seconds / timer.timeit(2))) for timer in timers]
        times = [
            [1e3 * timer.timeit(count) / count for timer, count in zip(timers, counts, strict=True)]
            for _ in range(rounds)
        ]
    return [Timing(of_one) for of_one in zip(*times, strict=True)]


def forward_of(module: nn.Module, shape: tuple[int, ...], conditions: Conditions) -> Callable[[], None]:
    """A forward pass of random images of that shape, in evaluation mode, over when the call returns."""
    images = _random_images(shape, conditions)
    module = module.eval().to(images.device).to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode():
            module(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return forward


def _random_images(shape: tuple[int, ...], conditions: Conditions) -> Tensor:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return images.to(conditions.device).contiguous(memory_format=torch.channels_last)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
