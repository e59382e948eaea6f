"""Progressive shrinking: in which order, and for how long, the choices of a space become elastic."""

import math
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field

from nas_cli.architecture import Architecture, Choice
from nas_cli.errors import ConfigError
from nas_cli.recipe import Count, Positive

Kind = Literal["kernel", "depth", "width"]
ORDER: tuple[Kind, ...] = get_args(Kind)
KINDS: dict[str, Kind] = {"kernel": "kernel", "depth": "depth", "expansion": "width", "channels": "width"}
"""What the last word of a choice's name can be for it to be elastic: the last option is the largest."""


def kind_of(choice: Choice) -> Kind | None:
    """None where the options have no order, as those of an operation, and where there is but one."""
    return KINDS.get(choice.name.rpartition(".")[2]) if len(choice.options) > 1 else None


@dataclass(frozen=True, slots=True)
class Phase:
    """What becomes elastic at its start, and how it trains; `opens` is empty for the largest network.

    `share` is its part of the training, `num_paths` the sub-networks that each step trains, `learning_rate`
    a factor on the recipe's. A kind that several phases open has its options opened in as many steps, the
    largest first.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    opens: tuple[Kind, ...]
    share: Annotated[float, Field(gt=0, le=1)]
    num_paths: Count = 1
    learning_rate: Positive = 1.0


class Shrinking:
    """The phases of one training: those that open anything of a space, with their steps.

    Raises ConfigError for phases out of order, shares that do not sum to 1, a kind that is never opened,
    or fewer steps than phases.
    """

    def __init__(
        self, phases: Sequence[Phase], choices: Sequence[Choice], num_steps: int, *, with_teacher: bool
    ) -> None:
        _check_shares(phases)
        _check_order(phases, with_teacher=with_teacher)
        self.kinds = tuple(kind_of(choice) for choice in choices)
        self.sizes = tuple(len(choice.options) for choice in choices)
        _check_all_opened(phases, {kind: c.name for kind, c in zip(self.kinds, choices, strict=True) if kind})
        self.phases = tuple(phase for phase in phases if not phase.opens or {*phase.opens} & {*self.kinds})
        self.num_steps = num_steps
        self.first_steps = _first_steps([phase.share for phase in self.phases], num_steps)

    def phase_at(self, step: int) -> int:
        return bisect(self.first_steps, step) - 1

    def steps_of(self, phase: int) -> tuple[int, int]:
        """The first step of a phase, and how many it has."""
        first, end = (*self.first_steps, self.num_steps)[phase : phase + 2]
        return first, end - first

    def draw(self, phase: int, rng: random.Random) -> tuple[Architecture, list[Architecture]]:
        """The largest network and the sub-networks of a step, which share all picks without an order."""
        largest = [
            size - 1 if kind else rng.randrange(size)
            for kind, size in zip(self.kinds, self.sizes, strict=True)
        ]
        drawn = [
            Architecture(
                tuple(
                    pick - rng.randrange(self.num_open(kind, size, phase)) if kind else pick
                    for pick, kind, size in zip(largest, self.kinds, self.sizes, strict=True)
                )
            )
            for _ in range(self.phases[phase].num_paths)
        ]
        return Architecture(tuple(largest)), drawn

    def num_open(self, kind: Kind, size: int, phase: int) -> int:
        """How many of the options of a choice of that kind are open, counted from the last."""
        openings = [kind in each.opens for each in self.phases]
        return 1 + math.ceil((size - 1) * sum(openings[: phase + 1]) / sum(openings))


def _check_shares(phases: Sequence[Phase]) -> None:
    total = math.fsum(phase.share for phase in phases)
    if abs(total - 1) > 1e-6:
        shares = ", ".join(f"{phase.share:g}" for phase in phases)
        raise ConfigError(
            f"strategy.phases: the shares {shares} sum to {total:g}. They divide recipe.epochs among the "
            "phases: make them sum to 1."
        )


def _check_order(phases: Sequence[Phase], *, with_teacher: bool) -> None:
    if with_teacher and phases[0].opens:
        raise ConfigError(
            f"strategy.phases[0] opens {_spell(phases[0].opens)}: the first phase must train the largest "
            "network (opens: []), which the others learn from. Put one before it, or set "
            "strategy.distillation_weight=0."
        )
    for place, phase in enumerate(phases[1:], start=1):
        if not phase.opens:
            raise ConfigError(
                f"strategy.phases[{place}] opens nothing: only the first phase may. Say what it opens "
                f"({', '.join(ORDER)}), or give its share to the one before."
            )
    for place, (before, after) in enumerate(pairwise(phases), start=1):
        if before.opens and min(map(ORDER.index, after.opens)) < max(map(ORDER.index, before.opens)):
            raise ConfigError(
                f"strategy.phases[{place}] opens {_spell(after.opens)} after {_spell(before.opens)}: out of "
                f"order. Networks shrink in the order {', '.join(ORDER)}; sort the phases."
            )


def _check_all_opened(phases: Sequence[Phase], names: dict[Kind, str]) -> None:
    """A sub-network that no phase trains would be searched among trained ones."""
    opened = {kind for phase in phases for kind in phase.opens}
    for kind, name in names.items():
        if kind not in opened:
            raise ConfigError(
                f"strategy.phases: no phase opens {kind}, and this space has choices of it ({name}). Add a "
                "phase for it, or give the space a single option of it."
            )


def _spell(kinds: Sequence[Kind]) -> str:
    return " and ".join(kinds)


def _first_steps(shares: Sequence[float], num_steps: int) -> tuple[int, ...]:
    """Where each phase begins: by its share, and with at least one step for each."""
    if num_steps < len(shares):
        raise ConfigError(
            f"strategy.phases: {len(shares)} phases do not fit into the {num_steps} steps of the training. "
            "Raise recipe.epochs, or open several kinds in one phase."
        )
    firsts, total = [0], math.fsum(shares)
    for place in range(1, len(shares)):
        wanted = round(num_steps * math.fsum(shares[:place]) / total)
        latest = num_steps - (len(shares) - place)
        firsts.append(min(max(wanted, firsts[-1] + 1), latest))
    return tuple(firsts)
