"""Pieces of work that a command does many times, to be tried out and timed before it starts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nas_cli.data import Batch
from nas_cli.training import EpochWork


@dataclass(frozen=True)
class Piece:
    """Work on one batch that is done `count` times. `do(k)` does it once, on k images of `batch_size`.

    It may change what it works on, which therefore is a copy.
    """

    name: str
    count: float
    batch_size: int
    do: Callable[[int], object]


def steps_of(work: EpochWork) -> list[Piece]:
    """A piece for each kind of step."""
    return [
        Piece(name, count, work.batch_size, _Steps(work, first, count).do)
        for name, first, count in work.kinds_of_steps()
        if count
    ]


class _Steps:
    """The steps of one kind in turn; where the epoch ends before, from the first one on again."""

    def __init__(self, work: EpochWork, first: int, count: int) -> None:
        self.work, self.first, self.count = work, first, count
        self.turns = self._turns()

    def do(self, num_images: int) -> None:
        step, batches = next(self.turns)
        self.work.step(step, *(Batch(*(part[:num_images] for part in batch)) for batch in batches))

    def _turns(self) -> Iterator[tuple[int, tuple[Batch, ...]]]:
        """Reading as a training does: streamed images are decoded ahead."""
        epoch = self.first // self.work.steps_per_epoch
        while True:
            self.work.start_epoch(epoch)
            reading = self.work.batches(self.first, (epoch + 1) * self.work.steps_per_epoch)
            yield from zip(range(self.first, self.first + self.count), reading, strict=False)
