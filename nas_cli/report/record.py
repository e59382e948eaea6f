"""What a page reads of a run folder. A run may have ended anyhow; whatever is missing is left out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import yaml

from nas_cli.architecture import Json
from nas_cli.errors import RunError
from nas_cli.run import Run

Record = Mapping[str, Json]


@dataclass(frozen=True)
class RunRecord:
    """One run, read once: its status, settings, figures and what it found."""

    folder: Path
    command: str
    config: Record
    status: Record
    metrics: Sequence[Record]
    history: Sequence[Record]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises RunError where the folder holds no run."""
        run = Run.open(folder)
        return cls(folder, run.command, run.config, run.status(), run.metrics(), run.history())

    @cached_property
    def genotype(self) -> Record:
        return self.json("genotype.json")

    @cached_property
    def found_by(self) -> Record:
        return as_record(self.genotype.get("found_by"))

    @cached_property
    def environment(self) -> Record:
        return self.json("environment.json")

    @cached_property
    def result(self) -> Record:
        return self.json("result.json")

    @property
    def seconds(self) -> float:
        return number(self.status.get("seconds")) or 0.0

    @property
    def score(self) -> float | None:
        """What the run is judged by: the test accuracy of a training, the score of what was found else."""
        return number(self.result.get("test_accuracy")) if self.result else number(self.found_by.get("score"))

    @property
    def unit(self) -> str:
        return "%" if self.result else str(self.found_by.get("unit", "%"))

    def class_of(self, group: str) -> str:
        """The class that a group of the settings names, without its module; empty where there is none."""
        return class_name(as_record(self.config.get(group)))

    def json(self, name: str) -> Record:
        """A file of the folder that holds an object; empty where it does not."""
        return as_record(read_json(self.folder / name))

    def hydra(self, name: str) -> object:
        """What Hydra wrote of how the run was started; None where it was not Hydra's job."""
        try:
            return yaml.safe_load((self.folder / ".hydra" / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return None


def run_folders(folder: Path) -> list[Path]:
    """The folder itself, or the jobs of a sweep in it, by number. Raises RunError where there is none."""
    if not folder.is_dir() or (folder / "status.json").is_file():
        return [folder]
    jobs = [file.parent for file in folder.glob("**/status.json")]
    if not jobs:
        raise RunError(
            f"{folder} is no run folder and holds none. Give a folder that a `nas` command made, or that of "
            "a sweep."
        )
    return sorted(jobs, key=lambda job: (int(job.name) if job.name.isdigit() else 0, str(job)))


def read_json(file: Path) -> Json:
    """None where the file is missing or damaged."""
    try:
        content: Json = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def class_name(node: Record) -> str:
    return str(node.get("_target_") or "").rsplit(".", 1)[-1]


def as_record(value: Json) -> Record:
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """The value where it is a number; a flag is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
