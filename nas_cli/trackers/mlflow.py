"""MLflow: runs on a tracking server, or in a local database."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_cli.architecture import Json
from nas_cli.extras import require
from nas_cli.tracker import Tracker, flatten

STATUS = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow waits for minutes where a server does not answer; what the user has set stays."""
MOST = 100
"""Settings that one request may carry."""


class Mlflow(Tracker):
    """Settings become parameters of a run in `experiment`, figures its metrics, what was found its files.

    `uri` is the server's address, or that of a database such as sqlite:///mlflow.db.
    """

    def __init__(self, *, uri: str = "http://127.0.0.1:5000", experiment: str = "nas") -> None:
        require("mlflow", "tracker=mlflow")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = experiment
        self.run = ""

    def start(self, folder: Path, command: str, config: Mapping[str, Json], known: str | None) -> str:
        from mlflow.entities import Param

        if known is not None:
            self.run = known
            self.client.update_run(known, status="RUNNING")
            return known
        tags = {"command": command, "folder": str(folder.resolve())}
        created = self.client.create_run(self._experiment(), tags=tags, run_name=f"{command} {folder.name}")
        self.run = str(created.info.run_id)
        settings = [Param(key, value[:6000]) for key, value in flatten(dict(config)).items()]
        for first in range(0, len(settings), MOST):
            self.client.log_batch(self.run, params=settings[first : first + MOST])
        return self.run

    def log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def finish(self, status: str, files: Sequence[Path]) -> None:
        for file in files:
            self.client.log_artifact(self.run, str(file))
        self.client.set_terminated(self.run, STATUS[status])

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id if found else self.client.create_experiment(self.experiment))
