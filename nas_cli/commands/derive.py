"""`nas derive`: read architectures out of a search, draw them and say what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from nas_cli.architecture import Architecture, Json, Option, read_genotype
from nas_cli.budget import Budget, CostMeter, told
from nas_cli.commands.handover import save_sub_network, trained_supernet
from nas_cli.commands.setup import (
    architecture_of,
    cost_rows,
    found_by_of,
    make_genotype,
    plain,
    published_cost,
    write_drawing,
)
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError, RunError
from nas_cli.progress import print_table
from nas_cli.report import report_after
from nas_cli.run import Run, find_run
from nas_cli.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture of a search, and where in the search it stands: its epoch, its score, or neither."""

    architecture: Architecture
    found_by: dict[str, Json]


def run(config: DictConfig, folder: Path, *, resume: bool = False) -> None:
    """Write the best `top` architectures of a search, or that of one `epoch`, with drawings and costs.

    With a budget the best that keep to it are written; nothing is searched again. Where a sub-network of a
    supernet is the network as published, it comes with its weights as well.
    """
    search = Run.open(find_run(config.run, Path("outputs"), "search"))
    info = ImageInfo.from_json(cast(dict[str, object], search.read_json("images.json")))
    space = build(SearchSpace, OmegaConf.create(search.settings("space")), info)
    limits = _limits(config, search, space, info)
    candidates = _choose(search, space, config.top, config.epoch, limits)
    with Run.create(folder, "derive", plain(config)) as run:
        trained = trained_supernet(search, space, run)
        for place, candidate in enumerate(candidates, start=1):
            suffix = "" if place == 1 else f"-{place}"
            genotype = make_genotype(search, space, candidate.architecture, candidate.found_by)
            drawing = write_drawing(run, f"genotype{suffix}", space, candidate.architecture)
            run.write_text(f"genotype{suffix}.json", genotype.to_json())
            files = {"drawing": str(drawing), "file": str(run.path(f"genotype{suffix}.json"))}
            if trained is not None:
                model = run.path(f"model{suffix}.pt")
                save_sub_network(model, trained, candidate.architecture, genotype)
                files |= {
                    "model": str(model),
                    "next": f"nas retrain genotype={files['file']} weights={model}",
                }
            rows = _rows(space, info, candidate)
            if limits is not None:
                rows["within budget"] = limits.told(candidate)
            print_table(f"derive {place}", rows | files)
    report_after(folder)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a derived network may cost."""

    meter: CostMeter
    limits: Mapping[str, float]

    def excess(self, candidate: Candidate) -> float:
        return self.meter.excess(candidate.architecture, self.limits)

    def told(self, candidate: Candidate) -> str:
        return told({name: self.meter.cost(name, candidate.architecture) for name in self.limits})

    def within(self, candidates: Sequence[Candidate], top: int) -> list[Candidate]:
        """The first `top` that keep to them. Raises ConfigError, with the nearest there is, for none."""
        if first := list(islice((one for one in candidates if self.excess(one) <= 1.0), top)):
            return first
        wanted = " ".join(f"budget.{name}={limit:g}" for name, limit in self.limits.items())
        raise ConfigError(
            f"{wanted}: none of the {len(candidates)} architectures that this search looked at costs so "
            f"little; the nearest has {self.told(min(candidates, key=self.excess))}. Raise the budget, or "
            "search anew with it."
        )


def _limits(config: DictConfig, search: Run, space: SearchSpace, info: ImageInfo) -> Limits | None:
    """None without a budget. A latency is predicted from the search's own table where no other is named."""
    node = config.budget.copy()
    if node.get("latency_ms") is not None and node.get("latency_table") is None:
        searched = cast(dict[str, Json], search.config.get("budget") or {})
        node.latency_table = searched.get("latency_table")
    budget = build(Budget, node)
    return Limits(CostMeter.of(budget, space, info), budget.limits) if budget.limits else None


def _rows(space: SearchSpace, info: ImageInfo, candidate: Candidate) -> dict[str, str]:
    rows = {"genotype": space.spell(candidate.architecture)}
    for name in ("epoch", "score"):
        if name in candidate.found_by:
            rows[name] = f"{candidate.found_by[name]:.6g}"
    return rows | cost_rows(published_cost(space, candidate.architecture, info))


def _choose(
    search: Run, space: SearchSpace, top: int, epoch: int | None, limits: Limits | None
) -> list[Candidate]:
    """The wanted architectures, the best (or newest) first. Raises ConfigError where there are too few."""
    if epoch is not None:
        if top > 1 or limits:
            other = f"top={top}" if top > 1 else "budget.*"
            raise ConfigError(
                f"{other} epoch={epoch}: an epoch holds one architecture. Leave one of them out."
            )
        return [_of_epoch(search, space, epoch)]
    candidates = _distinct(space, [*_found(search, space), *_scored(search, space), *_epochs(search, space)])
    if not candidates:
        raise RunError(
            f"run={search.folder} has no epoch and no evaluation yet. Let it run: {search.resume_command}"
        )
    if limits is not None:
        candidates = limits.within(candidates, top)
    if top > len(candidates):
        raise ConfigError(
            f"top={top}: {search.folder} holds {len(candidates)} different architectures"
            f"{' within the budget' if limits else ''}. Give top={len(candidates)} or less."
        )
    return candidates[:top]


def _found(search: Run, space: SearchSpace) -> list[Candidate]:
    """What the search ended with, if it did."""
    if not search.path("genotype.json").exists():
        return []
    genotype = read_genotype(str(search.path("genotype.json")))
    return [Candidate(architecture_of(genotype, space), found_by_of(genotype))]


def _scored(search: Run, space: SearchSpace) -> list[Candidate]:
    """The evaluated architectures of the history, the best of the highest fidelity first."""
    records = sorted(search.evaluations(), key=_rank, reverse=True)
    return [
        Candidate(
            space.architecture_at(cast(list[Json], record["picks"])), _origin(search, score=record["score"])
        )
        for record in records
    ]


def _rank(record: Mapping[str, Json]) -> tuple[int, float]:
    """Scores of two fidelities do not compare."""
    return cast(int | None, record.get("fidelity")) or 0, cast(float, record["score"])


def _epochs(search: Run, space: SearchSpace) -> list[Candidate]:
    """What each epoch of a search with shared weights would have derived, the newest first."""
    return [
        Candidate(
            space.architecture_of(cast(dict[str, Option], record["choices"])),
            _origin(search, epoch=record["epoch"]),
        )
        for record in reversed(search.metrics())
        if "choices" in record
    ]


def _of_epoch(search: Run, space: SearchSpace, epoch: int) -> Candidate:
    saved = _epochs(search, space)
    for candidate in saved:
        if candidate.found_by["epoch"] == epoch:
            return candidate
    there = (
        f"it has epochs {saved[-1].found_by['epoch']} to {saved[0].found_by['epoch']}"
        if saved
        else "it has none, so leave epoch out"
    )
    raise ConfigError(f"epoch={epoch}: no such epoch is saved in {search.folder}; {there}.")


def _origin(search: Run, **where: Json) -> dict[str, Json]:
    name = str(search.settings("strategy").get("_target_")).rsplit(".", 1)[-1]
    return {"strategy": name, "seed": search.seed, "run": str(search.folder), **where}


def _distinct(space: SearchSpace, candidates: list[Candidate]) -> list[Candidate]:
    """The first of each network."""
    seen: dict[Architecture, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(space.canonical(candidate.architecture), candidate)
    return list(seen.values())
