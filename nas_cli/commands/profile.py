"""`nas profile`: what a network or a whole space costs, before anything is trained."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from omegaconf import DictConfig

from nas_cli.architecture import Architecture, Json, read_genotype
from nas_cli.budget import Affordable, Budget, CostMeter, told
from nas_cli.commands.setup import architecture_of, conditions_of
from nas_cli.config import build
from nas_cli.data import Dataset, ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.profiling import profile_of
from nas_cli.progress import print_table
from nas_cli.space import SearchSpace

WHOLE_SPACE = "all"
"""Instead of a genotype."""
LARGEST_COUNT = 10**12
"""Beyond it a number of architectures is told as a power of ten."""


def run(config: DictConfig, *, as_json: bool = False) -> None:
    """Of a genotype's network at the size and classes of the config, or of three networks of its space."""
    info = build(Dataset, config.dataset).describe()
    space, budget = build(SearchSpace, config.space, info), build(Budget, config.budget)
    if config.genotype == WHOLE_SPACE:
        content, tables = _of_space(config, space, info, budget)
    else:
        architecture = architecture_of(read_genotype(config.genotype), space)
        content, tables = _of_network(config, space, info, budget, architecture)
    if as_json:
        print(json.dumps(content))  # noqa: T201
        return
    for title, rows in tables.items():
        print_table(title, rows)


Told = tuple[dict[str, Json], dict[str, dict[str, str]]]
"""The same for programs and, as tables, for people."""


def _of_network(
    config: DictConfig, space: SearchSpace, info: ImageInfo, budget: Budget, architecture: Architecture
) -> Told:
    profile = profile_of(space, architecture, info, conditions_of(config))
    rows = {"genotype": space.spell(architecture), "images": _images(info), **profile.rows()}
    content: dict[str, Json] = profile.to_json()
    if budget.limits:
        meter = CostMeter.of(budget, space, info)
        kept = meter.excess(architecture, budget.limits) <= 1.0
        costs = {name: meter.cost(name, architecture) for name in budget.limits}
        rows["budget"] = ("kept: " if kept else "not kept: ") + told(costs)
        content["budget"] = {"kept": kept, **costs}
    return content, {"profile": rows}


def _of_space(config: DictConfig, space: SearchSpace, info: ImageInfo, budget: Budget) -> Told:
    meter = CostMeter.of(budget, space, info)
    sampled = _by_multiply_adds(space, meter, config.samples, config.seed)
    verdict = _verdict(meter, budget, sampled) if budget.limits else None
    chosen = {"smallest": sampled[0], "median": sampled[len(sampled) // 2], "largest": sampled[-1]}
    conditions = conditions_of(config)
    profiles = {name: profile_of(space, chosen[name], info, conditions) for name in chosen}
    rows = {"architectures": _number(space.size), "images": _images(info)}
    content: dict[str, Json] = {"architectures": space.size}
    if verdict is not None:
        rows["budget"] = verdict.text
        content["budget"] = {"met": verdict.met, "text": verdict.text}
    rows["measured"] = f"of {len(sampled)} sampled networks the three by multiply-adds"
    tables = {"profile": rows} | {
        name: {"genotype": space.spell(chosen[name]), **profile.rows()} for name, profile in profiles.items()
    }
    content |= {name: cast(Json, profile.to_json()) for name, profile in profiles.items()}
    return content, tables


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether any network of a space keeps to a budget."""

    met: bool
    text: str


def _verdict(meter: CostMeter, budget: Budget, sampled: Sequence[Architecture]) -> Verdict:
    try:
        affordable = Affordable(meter, budget.limits)
    except ConfigError as error:
        return Verdict(False, f"cannot be met. {error}")
    kept = sum(affordable.allows(architecture) for architecture in sampled)
    frugal = told({name: meter.cost(name, affordable.frugal) for name in budget.limits})
    return Verdict(
        True, f"can be met: {kept} of {len(sampled)} samples do; the cheapest network found has {frugal}"
    )


def _by_multiply_adds(space: SearchSpace, meter: CostMeter, count: int, seed: int) -> list[Architecture]:
    """Different sampled networks, the cheapest first."""
    rng = random.Random(seed)
    sampled = {space.canonical(space.sample(rng)) for _ in range(count)}
    return sorted(sampled, key=lambda one: (meter.cost("macs", one), one.picks))


def _images(info: ImageInfo) -> str:
    return f"{info.channels} x {info.size} x {info.size}, {info.num_classes} classes"


def _number(count: int) -> str:
    """Exact, or as a power of ten."""
    if count <= LARGEST_COUNT:
        return f"{count:,}"
    power = len(str(count)) - 1
    return f"{count / 10**power:.1f} x 10^{power}"
