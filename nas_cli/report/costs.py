"""What the evaluated architectures of a search cost, as far as that can be said afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from nas_cli.architecture import Json, Option
from nas_cli.budget import Budget, CostMeter
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import NasError
from nas_cli.report.record import Record, RunRecord, as_record, number, read_json
from nas_cli.space import SearchSpace
from nas_cli.strategies.scored_front import COUNTED

MOST = 200
"""Networks counted for a picture; it takes some milliseconds each."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An evaluation with its cost; `place` is its number in the history, from 1."""

    cost: float
    score: float
    place: int


def priced_history(record: RunRecord) -> tuple[str, list[Priced]]:
    """What the cost is, and the evaluations at the highest fidelity with it; nothing where none is known.

    It is the first cost of front.json, else what the evaluator measured, else the parameters. What was not
    measured is counted for at most MOST networks: the best, and others spread over the search.
    """
    places = _comparable(record.history)
    measured = list(_measured(record, places[0])) if places else []
    name = (*_objectives(record), *measured, "parameters")[0]
    if name in measured:
        costs = {place: number(_measured(record, place).get(name)) for place in places}
    else:
        costs = _counted(record, name, _spread(record.history, places))
    return name, [
        Priced(cost, cast(float, record.history[place]["score"]), place + 1)
        for place, cost in costs.items()
        if cost is not None
    ]


def _measured(record: RunRecord, place: int) -> Record:
    return as_record(record.history[place].get("metrics"))


def _objectives(record: RunRecord) -> list[str]:
    front = read_json(record.folder / "front.json")
    return list(as_record(as_record(front[0]).get("objectives"))) if isinstance(front, list) and front else []


def parameters_of(record: RunRecord) -> float | None:
    """Of the network in genotype.json; None where its space cannot be built here."""
    if "parameters" in record.result:
        return number(record.result["parameters"])
    choices = cast(dict[str, Option], record.genotype.get("choices"))
    try:
        space, info = _space(record, as_record(record.genotype.get("space")))
        return CostMeter(space, info).cost("params", space.architecture_of(choices))
    except (NasError, TypeError, ValueError, KeyError):
        return None


def _counted(record: RunRecord, name: str, places: Sequence[int]) -> dict[int, float | None]:
    """Nothing for a space of the user's that is not to be found here, or files of another version."""
    try:
        space, info = _space(record, as_record(record.config.get("space")))
        if name == "latency_ms":
            budget = build(Budget, OmegaConf.create(dict(as_record(record.config.get("budget")))))
            meter = CostMeter.of(budget, space, info)
        else:
            meter = CostMeter(space, info)
        picks = {place: cast(list[Json], record.history[place]["picks"]) for place in places}
        return {place: meter.cost(COUNTED[name], space.architecture_at(picks[place])) for place in places}
    except (NasError, TypeError, ValueError, KeyError, AssertionError):
        return {}


def _space(record: RunRecord, node: Record) -> tuple[SearchSpace, ImageInfo]:
    info = ImageInfo.from_json(cast(dict[str, object], dict(_images(record))))
    return build(SearchSpace, OmegaConf.create(dict(node)), info), info


def _images(record: RunRecord) -> Record:
    """A derivation has those of the search that it read."""
    searched = Path(str(record.config.get("run") or record.folder)) / "images.json"
    return record.json("images.json") or as_record(read_json(searched))


def _comparable(history: Sequence[Record]) -> list[int]:
    """Those at the highest fidelity: scores of two fidelities do not compare."""
    fidelities = [number(one.get("fidelity")) or 0.0 for one in history]
    scored = [k for k, one in enumerate(history) if number(one.get("score")) is not None]
    return [k for k in scored if fidelities[k] == max(fidelities[j] for j in scored)]


def _spread(history: Sequence[Record], places: Sequence[int]) -> list[int]:
    if len(places) <= MOST:
        return list(places)
    best = sorted(places, key=lambda place: -cast(float, history[place]["score"]))[: MOST // 2]
    step = len(places) / (MOST // 2)
    return sorted({*best, *(places[int(k * step)] for k in range(MOST // 2))})
