"""Latency on this machine, predicted from a table of a space's candidates."""

import hashlib
import itertools
import json
import logging
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.space import SearchSpace
from nas_cli.supernet import Gate, Pick, SupernetOptions
from nas_cli.timing import Conditions, Timing, forward_of, measure, name_of

FORMAT = 3
SAMPLES = 200
"""Of so many architectures those are taken that lie at even distances."""
ROUNDS = 60
"""So often each thing is timed, in turn; its quickest round counts."""
SECONDS = 0.003
"""So long, or once where that takes longer."""


@dataclass(frozen=True)
class Term:
    """The milliseconds of what an architecture has where all of these candidates are picked."""

    picks: tuple[Pick, ...]
    ms: float


@dataclass(frozen=True)
class LatencyTable:
    """What each candidate of a space's supernet, or several of them together, add to a network's latency.

    `fixed_ms` is the rest of the network. `fingerprint` says for which space, size and images it was made.
    """

    conditions: Conditions
    fingerprint: str
    fixed_ms: float
    terms: tuple[Term, ...]
    format: int = FORMAT

    def expected(self, weights: Sequence[Tensor]) -> Tensor:
        """The latency that gates of these weights (rows, candidates) are expected to have; differentiable.

        The rows are drawn independently, so that several picks have the product of their weights.
        """
        one = torch.ones_like(weights[0].flatten()[:1])
        flat = torch.cat([*(rows.flatten() for rows in weights), one])
        places = torch.tensor(self._places([rows.shape for rows in weights]), device=flat.device)
        times = torch.tensor([term.ms for term in self.terms], dtype=flat.dtype, device=flat.device)
        return flat[places].prod(1) @ times + self.fixed_ms

    def _places(self, shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Where the weights of each term's picks are when all follow one another; -1 fills short rows up."""
        starts = [0, *itertools.accumulate(rows * candidates for rows, candidates in shapes)]
        most = max(len(term.picks) for term in self.terms)
        found = [
            [starts[gate] + row * shapes[gate][1] + candidate for gate, row, candidate in term.picks]
            for term in self.terms
        ]
        return [[*places, *([-1] * (most - len(places)))] for places in found]

    def predict(self, gates: Sequence[Gate]) -> float:
        """The latency of the architecture that the gates open."""
        opened = {
            (k, row, candidate)
            for k, gate in enumerate(gates)
            for row, active in enumerate(gate.active)
            for candidate in active
        }
        return self.fixed_ms + sum(term.ms for term in self.terms if opened.issuperset(term.picks))

    def predictor(self, space: SearchSpace) -> Callable[[Architecture], float]:
        """`predict` of the space's architectures."""
        with torch.device("meta"):
            supernet = space.build_supernet(SupernetOptions())
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
    space: SearchSpace,
    info: ImageInfo,
    conditions: Conditions,
    *,
    num_networks: int = 12,
    num_checks: int = 0,
    seed: int = 0,
) -> tuple[LatencyTable, dict[Architecture, Timing]]:
    """Time every candidate of the space once for each of its shapes, then some networks to fit the sums to.

    In a network a candidate finds other data in the caches than by itself, and sums and joins cost too: so
    all terms are multiplied by one factor, and what networks take beside them is `fixed_ms`. Further networks
    take turns with those, at the same speed of the machine; their timings, returned beside the table, say how
    well it predicts what it was not made from.
    Raises UnsupportedError where the candidates of the space are no modules of their own.
    """
    sites = Sites.of(space, info, conditions.batch_size)
    times = _time_once_each(sites, conditions)
    terms = tuple(
        Term(picks, sum(count * times[site] for site, count in found.items()))
        for picks, found in sites.terms.items()
    )
    sums = LatencyTable(conditions, sites.fingerprint, 0.0, terms)
    predict = sums.predictor(space)
    fitted = spread_over(space, predict, num_networks, seed=0)
    checked = spread_over(space, predict, num_checks, seed + 1, without=fitted)
    timings = _time_networks(space, info, [*fitted, *checked], conditions)
    for_fit, for_checks = timings[: len(fitted)], timings[len(fitted) :]
    factor, rest = _line([predict(network) for network in fitted], [timing.quickest for timing in for_fit])
    scaled = tuple(replace(term, ms=factor * term.ms) for term in terms)
    table = replace(sums, fixed_ms=rest, terms=scaled)
    return table, dict(zip(checked, for_checks, strict=True))


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
    space: SearchSpace,
    value: Callable[[Architecture], float],
    count: int,
    seed: int,
    without: Sequence[Architecture] = (),
) -> list[Architecture]:
    """Sampled architectures at even distances over the range of a value, the least first.

    None of `without`, unless the space is so small that there are too few others.
    """
    rng = random.Random(seed)
    sampled = {space.canonical(space.sample(rng)): None for _ in range(max(SAMPLES, count))}
    others = [architecture for architecture in sampled if architecture not in without]
    values = {
        architecture: value(architecture) for architecture in (others if len(others) >= count else sampled)
    }
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
        return Sites.of(space, info, batch_size=2).fingerprint


Site = tuple[str, tuple[int, ...]]
"""What a module is, and the shape of what it reads: modules of one site take the same time."""


@dataclass(frozen=True)
class Sites:
    """`terms[picks][site]`: how many modules of that site run where these are picked.

    `modules`: one for each site. They are those of the published networks, which may differ from the
    supernet's.
    """

    terms: Mapping[tuple[Pick, ...], Mapping[Site, int]]
    modules: Mapping[Site, nn.Module]

    @staticmethod
    def of(space: SearchSpace, info: ImageInfo, batch_size: int) -> "Sites":
        supernet = space.build_supernet(SupernetOptions(plain=True))
        terms: dict[tuple[Pick, ...], dict[Site, int]] = defaultdict(lambda: defaultdict(int))
        modules: dict[Site, nn.Module] = {}
        for part in supernet.parts(info, batch_size):
            site = str(part.module), part.shape
            terms[part.picks][site] += part.count
            modules.setdefault(site, part.module)
        return Sites(terms, modules)

    @property
    def fingerprint(self) -> str:
        """Does not depend on how many images are read at a time."""
        text = [
            [picks, [(what, shape[1:], count) for (what, shape), count in found.items()]]
            for picks, found in self.terms.items()
        ]
        return hashlib.blake2b(json.dumps(text).encode(), digest_size=16).hexdigest()


def _time_networks(
    space: SearchSpace, info: ImageInfo, architectures: Sequence[Architecture], conditions: Conditions
) -> list[Timing]:
    shape = conditions.batch_size, info.channels, info.size, info.size
    networks = [space.build(architecture) for architecture in architectures]
    forwards = [forward_of(network, shape, conditions) for network in networks]
    return measure(forwards, conditions, SECONDS, ROUNDS)


def _time_once_each(sites: Sites, conditions: Conditions) -> Mapping[Site, float]:
    forwards = [forward_of(module, shape, conditions) for (_, shape), module in sites.modules.items()]
    timings = measure(forwards, conditions, SECONDS, ROUNDS)
    return {site: timing.quickest for site, timing in zip(sites.modules, timings, strict=True)}
