"""What a run tells its tracker. A tracker that fails is left out from there on: it never stops a run."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from nas_cli.architecture import Json
from nas_cli.run.files import to_json, write_atomically
from nas_cli.tracker import Tracker

FOUND = ("config.yaml", "environment.json", "genotype.json", "genotype.svg", "front.json", "result.json")
"""The files that a tracker is given at the end, as far as there are any."""


class Tracking:
    """`tracker.json` in the run folder keeps what a resumed run goes on with."""

    def __init__(self, folder: Path, log: logging.Logger) -> None:
        self.tracker: Tracker | None = None
        self._folder = folder
        self._log = log
        self._evaluations = 0

    def start(self, command: str, config: Mapping[str, Json], evaluations: int) -> None:
        """`evaluations`: how many the history holds already."""
        self._evaluations = evaluations
        self._guarded(lambda tracker: self._start(tracker, command, config))

    def add_metrics(self, record: Mapping[str, Json]) -> None:
        figures = _numbers(record)
        epoch = figures.pop("epoch", None)
        if epoch is not None and figures:
            self._guarded(lambda tracker: tracker.log(figures, int(epoch)))

    def add_evaluation(self, record: Mapping[str, Json]) -> None:
        self._evaluations += 1
        measured = record.get("metrics")
        figures = _numbers(record) | (_numbers(measured) if isinstance(measured, dict) else {})
        self._guarded(lambda tracker: tracker.log(figures, self._evaluations))

    def finish(self, status: str) -> None:
        files = [self._folder / name for name in FOUND if (self._folder / name).is_file()]
        self._guarded(lambda tracker: tracker.finish(status, files))

    def _start(self, tracker: Tracker, command: str, config: Mapping[str, Json]) -> None:
        file = self._folder / "tracker.json"
        known = json.loads(file.read_text(encoding="utf-8"))["run"] if file.is_file() else None
        began = tracker.start(self._folder, command, config, known)
        write_atomically(file, to_json({"run": began}).encode())

    def _guarded(self, work: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            work(self.tracker)
        except Exception as error:  # a server that is down, a full disk: none is worth a search
            name = type(self.tracker).__name__
            self.tracker = None
            told = " ".join(str(error).split())[:300]
            self._log.warning(
                "tracker=%s failed, so the run goes on without it (its folder has everything): %s: %s",
                name.lower(),
                type(error).__name__,
                told,
            )


def _numbers(record: Mapping[str, Json]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, int | float)}
