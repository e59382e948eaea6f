"""What a search or a training will take, from a few steps of each kind tried out on a copy of it.

Nothing that the work itself holds, draws or learns is touched: it goes as it would without.
"""

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas_cli import ranks
from nas_cli.architecture import Architecture, Json
from nas_cli.budget import CostMeter
from nas_cli.data import Part
from nas_cli.errors import ConfigError, TrainingError
from nas_cli.evaluator import Evaluator
from nas_cli.machine import free_disk, free_memory
from nas_cli.memory import MEBIBYTE, peak_bytes
from nas_cli.network_training import NetworkTraining, scoring
from nas_cli.progress import duration
from nas_cli.rehearsal import Piece, steps_of
from nas_cli.run import Run
from nas_cli.sampling import SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategy import Problem, Strategy
from nas_cli.training import EpochWork
from nas_cli.weight_sharing import WeightSharingStrategy

HEADROOM = 1.3
"""Of memory: what kernels need for themselves, and what the allocator keeps of what was given back."""
SAMPLES = 20
"""Of so many networks the median is timed, and the largest measured."""
WORTH = 5
"""Each kind of step is tried out about so many times; work of no more steps in all is begun at once."""
FEW = 16
"""A smaller batch is tried out at once; of a larger one parts first, to see what the whole would need."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A piece of work, the seconds of doing it once, and how often it will be done."""

    name: str
    seconds: float
    count: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the work will take; `memory_bytes` is the process's at its most, or the GPU's."""

    timed: tuple[Timed, ...]
    memory_bytes: int
    disk_bytes: int

    @property
    def seconds(self) -> float:
        return sum(one.seconds * one.count for one in self.timed)

    @property
    def text(self) -> str:
        parts = ", ".join(f"{one.count:,.0f} x {one.name} of {_short(one.seconds)}" for one in self.timed)
        return (
            f"Expected: {duration(self.seconds)} ({parts}), {_bytes(self.memory_bytes)} of memory, "
            f"{_bytes(self.disk_bytes)} of disk."
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "seconds": self.seconds,
            "memory_mb": round(self.memory_bytes / MEBIBYTE, 1),
            "disk_mb": round(self.disk_bytes / MEBIBYTE, 1),
            "timed": [{"name": one.name, "seconds": one.seconds, "count": one.count} for one in self.timed],
        }


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to work in, and which settings of the space would make the work smaller."""

    device: torch.device
    folder: Path
    sizes: tuple[str, ...]

    def check_memory(self, piece: Piece, peaks: Mapping[int, float]) -> None:
        """`peaks`: bytes by the number of images. Raises ConfigError where the whole batch is too much."""
        sharing = ranks.local_size() if self.device.type == "cpu" else 1
        free, needed = free_memory(self.device) / sharing, HEADROOM * peaks[piece.batch_size]
        if needed <= free:
            return
        fewer = max((size for size, peak in peaks.items() if HEADROOM * peak <= free), default=None)
        advice = f"; {fewer} images would do" if fewer else ""
        raise ConfigError(
            f"A {piece.name} of {piece.batch_size} images needs about {_bytes(needed)} of memory, and this "
            f"machine has {_bytes(free)} left for it. Lower recipe.batch_size{advice}, or the size of the "
            f"network: {', '.join(self.sizes)}. preflight=false starts the work all the same."
        )

    def check_disk(self, needed: int) -> None:
        if needed > (free := free_disk(self.folder)):
            raise ConfigError(
                f"This needs about {_bytes(needed)} of disk, and {self.folder} has {_bytes(free)} left. "
                "Choose another folder with hydra.run.dir=FOLDER, or lower the size of the network: "
                f"{', '.join(self.sizes)}. preflight=false starts the work all the same."
            )


SIZES = ("channels", "num_cells", "stage_channels", "width_multiplier", "resolution", "num_nodes", "depths")


def room_of(config: Mapping[str, Json], device: torch.device, folder: Path) -> Room:
    space = config["space"]
    assert isinstance(space, Mapping)
    return Room(device, folder, tuple(f"space.{name}" for name in SIZES if space.get(name) is not None))


def of_search(strategy: Strategy, evaluator: Evaluator, room: Room) -> Expectation | None:
    """None where there is nothing to time, or where trying it out would take as long as the work.

    Raises ConfigError for more than the machine has.
    """
    if isinstance(strategy, WeightSharingStrategy):
        if _is_short(strategy):
            return None
        try:
            tried, scores = copy.deepcopy((strategy, evaluator))
        except (TypeError, RuntimeError, NotImplementedError):
            return None  # of a class that cannot be copied
        pieces = steps_of(tried)
        pieces += scores.pieces(_sampled(strategy.problem)[0], {None: float(tried.num_scored)})
        return _try(pieces, room, tried)
    if not isinstance(strategy, SamplingStrategy):
        return None  # of a kind of its own
    median, largest = _sampled(strategy.problem)
    evaluations = strategy.expected(evaluator)
    pieces = evaluator.pieces(median, evaluations)
    if not pieces:
        return None
    only_measured = evaluator.pieces(largest, dict.fromkeys(evaluations, 0.0))
    return _try([*only_measured, *pieces], room)


def of_training(training: NetworkTraining, test: Part, room: Room) -> Expectation | None:
    """With the test at its end; None where trying it out would take as long."""
    if _is_short(training):
        return None
    tried = copy.deepcopy(training)
    tested = scoring(tried.trained, test, tried.info, tried.trainer, tried.batch_size)
    return _try([*steps_of(tried), tested], room, tried)


def _is_short(work: EpochWork) -> bool:
    return sum(piece.count for piece in steps_of(work)) <= WORTH


def tell(run: Run, expectation: Expectation | None) -> None:
    """In the log, on the terminal, and in preflight.json."""
    if expectation is not None:
        run.log.info(expectation.text)
        run.write_json("preflight.json", expectation.to_json())


def _sampled(problem: Problem) -> tuple[Architecture, Architecture]:
    """The median and the largest of a few architectures by multiply-adds."""
    meter = problem.affordable.meter if problem.affordable else CostMeter(problem.space, problem.data.info)
    rng = random.Random(seed_for(problem.seed, "preflight"))
    sampled = [problem.sample(rng) for _ in range(SAMPLES)]
    sampled.sort(key=lambda architecture: meter.cost("macs", architecture))
    return sampled[SAMPLES // 2], sampled[-1]


def _try(pieces: Sequence[Piece], room: Room, work: EpochWork | None = None) -> Expectation | None:
    """None where the first steps fail: the work itself will say how."""
    timed, peaks = [], []
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            for piece in pieces:
                peaks.append(_peak(piece, room))
                if piece.count:
                    timed.append(Timed(piece.name, _seconds(piece, room.device), piece.count))
    except TrainingError:
        return None
    saved = _bytes_of_state(work) if work else 0
    disk = 3 * saved + MEBIBYTE  # the checkpoint, the next one beside it, the model or the genotype, the log
    room.check_disk(disk)
    memory = _held(room.device) + int(HEADROOM * max(peaks)) if peaks else 0
    return Expectation(tuple(timed), memory, disk)


def _peak(piece: Piece, room: Room) -> int:
    """The bytes of a whole batch, which is not done where parts of it say that it will not fit."""
    whole = piece.batch_size
    if whole >= FEW:
        small, large = whole // 8, whole // 4
        piece.do(small)  # makes the state of the optimiser, which stays
        few, more = (peak_bytes(partial(piece.do, size), room.device) for size in (small, large))
        slope = (more - few) / (large - small)
        halves = (whole >> times for times in range(whole.bit_length() - 1))
        room.check_memory(piece, {size: few + slope * (size - small) for size in halves})
    return peak_bytes(partial(piece.do, whole), room.device)


def _seconds(piece: Piece, device: torch.device) -> float:
    started = time.perf_counter()
    piece.do(piece.batch_size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _bytes_of_state(work: EpochWork) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(work.state_dict()) if isinstance(leaf, Tensor))


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / MEBIBYTE:.0f} MiB"


def _short(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{1e3 * seconds:.2g} ms"
