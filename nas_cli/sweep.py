"""What became of the jobs of a sweep, read from their folders: launchers may have run them anywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job: `status` is that of its status.json, `failed` where the job did not get so far."""

    folder: Path
    overrides: tuple[str, ...]
    status: str
    score: float | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """`score` is the genotype's for a search, the test accuracy for a training from scratch."""
        status = _json(folder / "status.json").get("status", "failed")
        found_by = _json(folder / "genotype.json").get("found_by")
        score = found_by.get("score") if isinstance(found_by, dict) else None
        if (folder / "result.json").is_file():
            score = _json(folder / "result.json").get("test_accuracy")
        return cls(folder, _overrides(folder), str(status), score if isinstance(score, float | int) else None)


def outcomes(sweep_folder: Path) -> list[Outcome]:
    """The jobs in the order of their numbers."""
    folders = [file.parents[1] for file in sweep_folder.glob("**/.hydra/overrides.yaml")]
    return [Outcome.read(folder) for folder in sorted(folders, key=_order)]


def table(found: list[Outcome]) -> str:
    """A line a job, with the settings that not all of them share."""
    shared = set.intersection(*(set(outcome.overrides) for outcome in found)) if len(found) > 1 else set()
    rows = [("folder", "status", "score", "settings")]
    for outcome in found:
        score = "" if outcome.score is None else f"{outcome.score:.4f}"
        own = [override for override in outcome.overrides if override not in shared]
        rows.append((str(outcome.folder), outcome.status, score, " ".join(own)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 0, str(folder))


def _overrides(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or ())
    except OSError:
        return ()


def _json(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
