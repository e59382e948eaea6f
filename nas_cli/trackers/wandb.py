"""Weights & Biases: runs of a project there, or in the run folder until they are synchronised."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from nas_cli.architecture import Json
from nas_cli.extras import require
from nas_cli.tracker import Tracker


class Wandb(Tracker):
    """`mode` offline writes into the run folder, for `wandb sync FOLDER/wandb/offline-run-*` later."""

    def __init__(self, *, project: str = "nas", mode: Literal["online", "offline"] = "online") -> None:
        require("wandb", "tracker=wandb")
        self.project = project
        self.mode: Literal["online", "offline"] = mode

    def start(self, folder: Path, command: str, config: Mapping[str, Json], known: str | None) -> str:
        import wandb

        identity = known or uuid.uuid4().hex[:16]
        self.run = wandb.init(
            project=self.project,
            mode=self.mode,
            dir=str(folder),
            id=identity,
            resume="allow" if self.mode == "online" else None,
            name=f"{command} {folder.name}",
            job_type=command,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", init_timeout=20),
        )
        return identity

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def finish(self, status: str, files: Sequence[Path]) -> None:
        for file in files:
            self.run.save(str(file), base_path=str(file.parent), policy="now")
        self.run.summary["status"] = status
        self.run.finish(exit_code=0 if status == "done" else 1)
