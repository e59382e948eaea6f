"""What a found network may cost at most, and the architectures of a space that keep to it."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from nas_cli.architecture import Architecture
from nas_cli.cost import count_parameters, multiply_adds
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.latency import LatencyTable
from nas_cli.space import SearchSpace
from nas_cli.supernet import Supernet

TRIES = 100
"""How many samples in a row may be too expensive before a cheap architecture is varied instead."""


def plain_number(value: object) -> object:
    """For the annotation of a limit: pydantic says what it must be where it raises ValueError."""
    if isinstance(value, str):
        raise ValueError("a plain number such as 3e6, without a unit: latency_ms is in milliseconds")
    return value


Limit = Annotated[float, Field(gt=0), BeforeValidator(plain_number)]
UNITS = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "ms"}


def told(costs: Mapping[str, float]) -> str:
    """`12,345 parameters, 3.2 ms`."""
    return ", ".join(
        f"{cost:,.0f} {UNITS[name]}" if cost >= 1000 else f"{cost:.4g} {UNITS[name]}"
        for name, cost in costs.items()
    )


class Budget:
    """Upper limits of parameters, multiply-adds of one image, and predicted milliseconds; None: no limit.

    `latency_table` is the latency.json that `nas latency` writes, for the same space and images.
    """

    def __init__(
        self,
        *,
        params: Limit | None = None,
        macs: Limit | None = None,
        latency_ms: Limit | None = None,
        latency_table: str | None = None,
    ) -> None:
        limits = {"params": params, "macs": macs, "latency_ms": latency_ms}
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        self.latency_table = latency_table
        if latency_ms is not None and latency_table is None:
            raise ConfigError(
                f"budget.latency_ms={latency_ms:g} needs budget.latency_table: the file that `nas latency` "
                "writes for this space, on the machine that counts."
            )
        if latency_ms is None and latency_table is not None:
            raise ConfigError(
                f"budget.latency_table={latency_table} has no effect without budget.latency_ms. Set both."
            )


class CostMeter:
    """What architectures cost in `params`, `macs` or `latency_ms`; each distinct network is counted once."""

    def __init__(self, space: SearchSpace, info: ImageInfo, table: LatencyTable | None = None) -> None:
        self.space, self.info = space, info
        self._counted: dict[tuple[str, Architecture], float] = {}
        self.predict = table.predictor(space) if table else None

    @staticmethod
    def of(budget: Budget, space: SearchSpace, info: ImageInfo) -> "CostMeter":
        """Reads the budget's latency table, where it has one."""
        if budget.latency_table is None:
            return CostMeter(space, info)
        table = LatencyTable.read(budget.latency_table)
        table.check(space, info, budget.latency_table)
        return CostMeter(space, info, table)

    def excess(self, architecture: Architecture, limits: Mapping[str, float]) -> float:
        """The largest share of a limit that is used up."""
        return max(self.cost(name, architecture) / limit for name, limit in limits.items())

    def cost(self, name: str, architecture: Architecture) -> float:
        key = name, self.space.canonical(architecture)
        if key not in self._counted:
            self._counted[key] = self._count(*key)
        return self._counted[key]

    def _count(self, name: str, architecture: Architecture) -> float:
        if name == "latency_ms":
            assert self.predict is not None
            return self.predict(architecture)
        with torch.device("meta"):
            network = self.space.build(architecture)
            return count_parameters(network) if name == "params" else multiply_adds(network, self.info)


@dataclass
class Affordable:
    """The architectures of a space within some limits. Raises ConfigError where there is none."""

    meter: CostMeter
    limits: Mapping[str, float]
    frugal: Architecture = field(init=False)

    @staticmethod
    def of(budget: Budget, space: SearchSpace, info: ImageInfo) -> "Affordable | None":
        """None where the budget limits nothing."""
        if not budget.limits:
            return None
        return Affordable(CostMeter.of(budget, space, info), budget.limits)

    def __post_init__(self) -> None:
        self.frugal = self._least(self._excess)
        if self.allows(self.frugal):
            return
        for name, limit in self.limits.items():
            least = min(self._cost_of_least(name), self.meter.cost(name, self.frugal))
            if least > limit:
                raise ConfigError(
                    f"budget.{name}={limit:g}: no network of this space costs so little; the cheapest found "
                    f"has {told({name: least})}. Raise the budget, or make the space smaller."
                )
        raise ConfigError(
            f"budget: each limit can be met alone, but no network was found that meets {dict(self.limits)} "
            "together. Raise one of them."
        )

    def _cost_of_least(self, name: str) -> float:
        return self.meter.cost(name, self._least(partial(self.meter.cost, name)))

    def allows(self, architecture: Architecture) -> bool:
        return self._excess(architecture) <= 1.0

    def _excess(self, architecture: Architecture) -> float:
        return self.meter.excess(architecture, self.limits)

    def _least(self, value: Callable[[Architecture], float]) -> Architecture:
        """The architecture of least value that changing one choice at a time leads to."""
        best = self.meter.space.sample(random.Random(0))
        while True:
            changed = best
            for k in range(len(best.picks)):
                changed = min((changed, *_changed_at(changed, k, self.meter.space)), key=value)
            if value(changed) >= value(best):
                return best
            best = changed

    def sample(self, rng: random.Random) -> Architecture:
        """A uniform sample of what is affordable; where that is rare, a walk from the frugal one."""
        for _ in range(TRIES):
            architecture = self.meter.space.sample(rng)
            if self.allows(architecture):
                return architecture
        walker = self.frugal
        for _ in range(3 * len(walker.picks)):
            step = self.meter.space.mutate(walker, rng)
            walker = step if self.allows(step) else walker
        return walker

    def mutate(self, parent: Architecture, rng: random.Random) -> Architecture:
        """An affordable architecture one pick away; a sample where none is met with."""
        for _ in range(TRIES):
            child = self.meter.space.mutate(parent, rng)
            if self.allows(child):
                return child
        return self.sample(rng)

    def nearest(self, wanted: Architecture, weights: Sequence[Tensor], supernet: Supernet) -> Architecture:
        """An affordable architecture near the one that normalised gate weights point at.

        One choice at a time is changed, whichever saves most for its loss of likelihood, until the budget
        is kept; then whatever makes it likelier within the budget. The likelihood is the product of the
        weights of all candidates that the architecture opens.
        """
        likelihood = _likelihood(weights, supernet)
        architecture = wanted
        while not self.allows(architecture):
            cheaper = self._best_saving(architecture, likelihood)
            architecture = self.frugal if cheaper is None else cheaper
        while (better := self._likelier(architecture, likelihood)) is not None:
            architecture = better
        return architecture

    def _best_saving(
        self, architecture: Architecture, likelihood: Callable[[Architecture], float]
    ) -> Architecture | None:
        """The neighbour that saves most for its loss of likelihood; more than is needed is no gain."""
        excess, value = self._excess(architecture), likelihood(architecture)
        best: tuple[float, Architecture] | None = None
        for other in self.meter.space.neighbours(architecture):
            saving = excess - max(1.0, self._excess(other))
            rate = saving / max(value - likelihood(other), 1e-6)
            if saving > 0 and (best is None or rate > best[0]):
                best = rate, other
        return None if best is None else best[1]

    def _likelier(
        self, architecture: Architecture, likelihood: Callable[[Architecture], float]
    ) -> Architecture | None:
        """The likeliest affordable neighbour, where it is likelier."""
        scored = [(likelihood(other), other) for other in self.meter.space.neighbours(architecture)]
        better = [pair for pair in scored if pair[0] > likelihood(architecture) + 1e-9]
        better.sort(key=lambda pair: -pair[0])
        return next((other for _, other in better if self.allows(other)), None)


def _likelihood(weights: Sequence[Tensor], supernet: Supernet) -> Callable[[Architecture], float]:
    """The logarithm of the product of the weights that an architecture opens."""
    logs: list[list[list[float]]] = [rows.detach().cpu().clamp_min(1e-12).log().tolist() for rows in weights]

    def likelihood(architecture: Architecture) -> float:
        return sum(
            logs[k][row][candidate]
            for k, gate in enumerate(supernet.gates_of(architecture))
            for row, active in enumerate(gate.active)
            for candidate in active
        )

    return likelihood


def _changed_at(architecture: Architecture, k: int, space: SearchSpace) -> Iterator[Architecture]:
    """All architectures with another option of choice k."""
    for pick in range(len(space.choices[k].options)):
        if pick != architecture.picks[k]:
            yield Architecture((*architecture.picks[:k], pick, *architecture.picks[k + 1 :]))
