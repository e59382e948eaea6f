"""Latency on this machine: measured of a network, predicted from a table of a space's candidates."""

import hashlib
import json
import random
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.cost import evaluation_mode
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.space import SearchSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

FORMAT = 1
ROUNDS = 5
"""How often each thing is timed, the things in turn, so that a busy moment of the machine hits all alike."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Where and how latencies are measured. `processor`: the name of what computes."""

    processor: str
    device: str
    threads: int
    batch_size: int
    precision: str = "fp32"

    @property
    def text(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else ""
        return f"{self.processor}{threads}, batch {self.batch_size}, {self.precision}"


@dataclass(frozen=True)
class LatencyTable:
    """What each candidate of a space's supernet adds to a network's latency, in milliseconds.

    `entries[k][row][candidate]` sums up all places of the network that run it; `fixed_ms` is the rest of
    the network. `fingerprint` says for which space, size and images it was made.
    """

    conditions: Conditions
    fingerprint: str
    fixed_ms: float
    entries: list[list[list[float]]]
    format: int = FORMAT

    def expected(self, weights: Sequence[Tensor]) -> Tensor:
        """The latency that gates of these weights (rows, candidates) are expected to have; differentiable."""
        parts = [
            (rows * torch.tensor(entry, dtype=rows.dtype, device=rows.device)).sum()
            for rows, entry in zip(weights, self.entries, strict=True)
        ]
        return torch.stack(parts).sum() + self.fixed_ms

    def predict(self, gates: Sequence[Gate]) -> float:
        """The latency of the architecture that the gates open."""
        return self.fixed_ms + sum(
            entry[row][candidate]
            for gate, entry in zip(gates, self.entries, strict=True)
            for row, active in enumerate(gate.active)
            for candidate in active
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def read(path: str | Path) -> "LatencyTable":
        """Raises ConfigError for a file that is missing or no latency table."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            table = TypeAdapter(LatencyTable).validate_python(content)
        except OSError as error:
            raise ConfigError(f"There is no latency table {path}. {_MAKE_ONE}") from error
        except (ValueError, ValidationError) as error:
            raise ConfigError(f"{path} is no latency table. {_MAKE_ONE}") from error
        if table.format != FORMAT:
            raise ConfigError(f"{path} has format {table.format}; this version reads {FORMAT}. {_MAKE_ONE}")
        return table

    def check(self, space: SearchSpace, info: ImageInfo, path: str) -> None:
        """Raises ConfigError where the table is for another space, another size or other images."""
        if self.fingerprint != fingerprint_of(space, info):
            raise ConfigError(
                f"The latency table {path} was made for another space, other settings of it or other images. "
                "Make one with `nas latency` and the same space.* and dataset settings as this search."
            )


_MAKE_ONE = "`nas latency` writes one: outputs/latency/<stamp>/latency.json."


def measure(
    forwards: Sequence[Callable[[], object]], conditions: Conditions, seconds: float = 0.05
) -> list[float]:
    """Median milliseconds of each call, measured in turn for so many seconds a round; all warm up first.

    One thread of a processor is measured in CPU time, so that other work on the machine disturbs it less.
    """
    alone = conditions.device == "cpu" and conditions.threads == 1
    clock = time.process_time if alone else time.perf_counter
    timers = [timeit.Timer(forward, timer=clock) for forward in forwards]
    with _threads(conditions.threads):
        counts = [max(1, round(2 * seconds / timer.timeit(2))) for timer in timers]
        rounds = [
            [1e3 * timer.timeit(count) / count for timer, count in zip(timers, counts, strict=True)]
            for _ in range(ROUNDS)
        ]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward(module: nn.Module, images: Tensor) -> Callable[[], object]:
    """A forward pass that is over when the call returns."""

    def forward() -> None:
        with torch.inference_mode():
            module(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return forward


def measure_table(
    space: SearchSpace, info: ImageInfo, conditions: Conditions, num_networks: int = 8
) -> LatencyTable:
    """Time every candidate of the space once for each of its shapes, and some networks for their rest.

    Raises UnsupportedError where the candidates of the space are no modules of their own.
    """
    supernet = _plain_supernet(space).to(torch.device(conditions.device))
    sites = Sites.of(supernet, info, conditions.batch_size)
    times = _time_once_each(sites, conditions)
    entries = [
        [[sum(times[site] for site in found) for found in row] for row in gate] for gate in sites.places
    ]
    table = LatencyTable(conditions, sites.fingerprint, 0.0, entries)
    rng = random.Random(0)
    architectures = [space.sample(rng) for _ in range(num_networks)]
    measured = measure_networks(space, info, architectures, conditions)
    predicted = [table.predict(supernet.gates_of(architecture)) for architecture in architectures]
    rest = statistics.median(real - sums for real, sums in zip(measured, predicted, strict=True))
    return replace(table, fixed_ms=max(rest, 0.0))


def measure_networks(
    space: SearchSpace, info: ImageInfo, architectures: Sequence[Architecture], conditions: Conditions
) -> list[float]:
    """The latency of each architecture's network, in milliseconds."""
    images = _random_images((conditions.batch_size, info.channels, info.size, info.size), conditions)
    networks = [
        space.build(architecture).to(images.device).to(memory_format=torch.channels_last)
        for architecture in architectures
    ]
    return measure([_forward(network.eval(), images) for network in networks], conditions)


def fingerprint_of(space: SearchSpace, info: ImageInfo) -> str:
    """Equal for spaces whose candidates are the same and read images of the same shapes."""
    with torch.device("meta"):
        return Sites.of(_plain_supernet(space), info, batch_size=2).fingerprint


Site = tuple[str, tuple[int, ...]]
"""What a module is, and the shape of what it reads: modules of one site take the same time."""


@dataclass(frozen=True)
class Sites:
    """`places[gate][row][candidate]`: all sites that run where it is picked. `modules`: one for each site."""

    places: list[list[list[list[Site]]]]
    modules: dict[Site, nn.Module]

    @staticmethod
    def of(supernet: Supernet, info: ImageInfo, batch_size: int) -> "Sites":
        shapes = _input_shapes(supernet, info, batch_size)
        modules: dict[Site, nn.Module] = {}

        def sites_of(gate: int, row: int, candidate: int) -> list[Site]:
            running = [
                module for module in supernet.candidate_modules(gate, row, candidate) if id(module) in shapes
            ]
            found = [(str(module), shapes[id(module)]) for module in running]
            modules.update(zip(found, running, strict=True))
            return found

        places = [
            [[sites_of(gate, row, k) for k in range(count)] for row in range(rows)]
            for gate, (rows, count) in enumerate(supernet.gate_shapes)
        ]
        return Sites(places, modules)

    @property
    def fingerprint(self) -> str:
        """Does not depend on how many images are read at a time."""
        text = [
            [[[(what, shape[1:]) for what, shape in found] for found in row] for row in gate]
            for gate in self.places
        ]
        return hashlib.blake2b(json.dumps(text).encode(), digest_size=16).hexdigest()


def _plain_supernet(space: SearchSpace) -> Supernet:
    return space.build_supernet(SupernetOptions(form="side_by_side", plain=True))


def _input_shapes(supernet: Supernet, info: ImageInfo, batch_size: int) -> dict[int, tuple[int, ...]]:
    """{id(module): the shape it reads} of every module that runs when all gates are open."""
    shapes: dict[int, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(inputs[0], Tensor):
            shapes[id(module)] = tuple(inputs[0].shape)

    hooks = [module.register_forward_pre_hook(note) for module in supernet.modules()]
    device = next(supernet.parameters()).device
    images = torch.zeros(batch_size, info.channels, info.size, info.size, device=device)
    gates = [Gate.soft(torch.full(shape, 1 / shape[1], device=device)) for shape in supernet.gate_shapes]
    with evaluation_mode(supernet), torch.no_grad():
        supernet(images, gates)
    for hook in hooks:
        hook.remove()
    return shapes


def _time_once_each(sites: Sites, conditions: Conditions) -> Mapping[Site, float]:
    forwards = [
        _forward(module.eval(), _random_images(shape, conditions))
        for (_, shape), module in sites.modules.items()
    ]
    return dict(zip(sites.modules, measure(forwards, conditions, seconds=0.02), strict=True))


def _random_images(shape: tuple[int, ...], conditions: Conditions) -> Tensor:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return images.to(conditions.device).contiguous(memory_format=torch.channels_last)
