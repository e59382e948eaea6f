"""Latency on this machine, predicted from a table of a space's candidates."""

import hashlib
import itertools
import json
import logging
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
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
from nas_cli.timing import Conditions, forward_of, measure, measure_networks, name_of

FORMAT = 2
SAMPLES = 200
"""Of so many architectures those are taken that lie at even distances."""


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

    def predictor(self, space: SearchSpace) -> Callable[[Architecture], float]:
        """`predict` of the space's architectures."""
        with torch.device("meta"):
            supernet = space.build_supernet(SupernetOptions(form="side_by_side"))
        return lambda architecture: self.predict(supernet.gates_of(architecture))

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
        """Raises ConfigError where the table is for another space, another size or other images.

        A table of another machine is used, with a warning that names both.
        """
        here = name_of(self.conditions.device)
        if self.conditions.processor != here:
            logging.getLogger(__name__).warning(
                f"The latency table {path} was measured on {self.conditions.processor}, and this machine has "
                f"{here}: its milliseconds are those of the other one. Make one here with `nas latency`."
            )
        if self.fingerprint != fingerprint_of(space, info):
            raise ConfigError(
                f"The latency table {path} was made for another space, other settings of it or other images. "
                "Make one with `nas latency` and the same space.* and dataset settings as this search."
            )


_MAKE_ONE = "`nas latency` writes one: outputs/latency/<stamp>/latency.json."


def measure_table(
    space: SearchSpace, info: ImageInfo, conditions: Conditions, num_networks: int = 12
) -> LatencyTable:
    """Time every candidate of the space once for each of its shapes, then some networks to fit the sums to.

    In a network a candidate finds other data in the caches than by itself, and sums and joins cost too: so
    all entries are multiplied by one factor, and what networks take beside them is `fixed_ms`.
    Raises UnsupportedError where the candidates of the space are no modules of their own.
    """
    supernet = _plain_supernet(space)
    sites = Sites.of(supernet, info, conditions.batch_size)
    times = _time_once_each(sites, conditions)
    entries = [
        [[sum(times[site] for site in found) for found in row] for row in gate] for gate in sites.places
    ]
    sums = LatencyTable(conditions, sites.fingerprint, 0.0, entries)
    predict = sums.predictor(space)
    architectures = spread_over(space, predict, num_networks, seed=0)
    measured = [timing.median for timing in measure_networks(space, info, architectures, conditions)]
    factor, rest = _line([predict(architecture) for architecture in architectures], measured)
    scaled = [[[factor * time for time in row] for row in gate] for gate in entries]
    return replace(sums, fixed_ms=rest, entries=scaled)


def _line(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Factor and constant that make measured latencies of sums, by Theil and Sen's medians of slopes."""
    points = list(zip(sums, measured, strict=True))
    slopes = [
        (one[1] - other[1]) / (one[0] - other[0])
        for one, other in itertools.combinations(points, 2)
        if one[0] != other[0]
    ]
    factor = min(max(statistics.median(slopes), 0.5), 2.0) if slopes else 1.0  # noise alone is further away
    rest = statistics.median(real - factor * predicted for predicted, real in points)
    return factor, max(rest, 0.0)


def spread_over(
    space: SearchSpace, value: Callable[[Architecture], float], count: int, seed: int
) -> list[Architecture]:
    """Sampled architectures at even distances over the range of a value, the least first."""
    rng = random.Random(seed)
    sampled = {space.canonical(space.sample(rng)): None for _ in range(max(SAMPLES, count))}
    values = {architecture: value(architecture) for architecture in sampled}
    least, most = min(values.values()), max(values.values())
    chosen = []
    for place in range(min(count, len(values))):
        wanted = least + (most - least) * place / max(count - 1, 1)
        nearest = min(values, key=lambda architecture: abs(values[architecture] - wanted))
        chosen.append(nearest)
        del values[nearest]
    return chosen


def fingerprint_of(space: SearchSpace, info: ImageInfo) -> str:
    """Equal for spaces whose candidates are the same and read images of the same shapes."""
    with torch.device("meta"):
        return Sites.of(_plain_supernet(space), info, batch_size=2).fingerprint


Site = tuple[str, tuple[int, ...]]
"""What a module is, and the shape of what it reads: modules of one site take the same time."""


@dataclass(frozen=True)
class Sites:
    """`places[gate][row][candidate]`: all sites that run where it is picked. `modules`: one for each site.

    The sites are those of the published networks, which may differ from the supernet's.
    """

    places: list[list[list[list[Site]]]]
    modules: dict[Site, nn.Module]

    @staticmethod
    def of(supernet: Supernet, info: ImageInfo, batch_size: int) -> "Sites":
        shapes = _input_shapes(supernet, info, batch_size)
        modules: dict[Site, nn.Module] = {}

        def sites_of(gate: int, row: int, candidate: int) -> list[Site]:
            pairs = zip(
                supernet.candidate_modules(gate, row, candidate),
                supernet.final_modules(gate, row, candidate),
                strict=True,
            )
            final = {id(module): alone for module, alone in pairs if id(module) in shapes}
            found = [(str(module), shapes[place]) for place, module in final.items()]
            modules.update(zip(found, final.values(), strict=True))
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
    forwards = [forward_of(module, shape, conditions) for (_, shape), module in sites.modules.items()]
    timings = measure(forwards, conditions, seconds=0.02)
    return {site: timing.median for site, timing in zip(sites.modules, timings, strict=True)}
