"""A run: one folder that holds everything one command read, did and found."""

import hashlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nas_cli.architecture import Json
from nas_cli.errors import Interrupted, NasError, RunError, TrainingError
from nas_cli.run import checkpoint
from nas_cli.run.environment import environment, is_out_of_addresses, peak_gpu_memory_mb, peak_memory_mb
from nas_cli.run.files import FolderLock, JsonLines, to_json, write_atomically
from nas_cli.run.log import RunLog
from nas_cli.run.lookup import claim, read_config, read_json, read_status
from nas_cli.run.signals import StopSignals
from nas_cli.run.tensorboard import TensorBoard
from nas_cli.run.tracking import Tracking
from nas_cli.tracker import Tracker

EVALUATION = {
    "picks": list,
    "fidelity": int | None,
    "score": int | float,
    "seconds": int | float,
    "metrics": dict,
}
"""What every line of history.jsonl holds."""


class Run:
    """Every file of a run folder is read and written here.

    A command makes it with `create` or `resume` and works inside `with run:`, which takes SIGINT, SIGTERM
    and SIGHUP as a request to stop and writes at the end how it went. `open` is for commands that only read
    it.
    """

    def __init__(self, folder: Path, command: str, config: dict[str, Json], *, resumed: bool) -> None:
        """Use `create`, `resume` or `open`."""
        self.folder = folder
        self.command = command
        self.config = config
        self.resumed = resumed
        self._metrics = JsonLines(folder / "metrics.jsonl")
        self._history = JsonLines(folder / "history.jsonl")
        self._tensorboard = TensorBoard(folder / "tensorboard")
        self._signals = StopSignals()
        self._lock = FolderLock(folder)
        self._run_log = RunLog(folder / f"{command}.log")
        self.log = self._run_log.logger
        self._tracking = Tracking(folder, self.log)
        self._start = _now()
        self._seconds_before = 0.0
        self._clock: float | None = None  # when this process began to work

    @classmethod
    def create(cls, folder: Path, command: str, config: Mapping[str, Json]) -> Self:
        """Begin a run in a folder that holds none yet; Hydra may have made it already."""
        from omegaconf import OmegaConf

        run = cls(folder, command, dict(config), resumed=False)
        claim(folder, to_json(run._status("running")))
        run.write_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(run.config)))
        run.write_json("environment.json", environment(config.get("seed")))
        return run

    @classmethod
    def resume(cls, folder: Path, command: str) -> Self:
        """Open an unfinished run of that command to go on with it."""
        run = cls._read(folder, resumed=True)
        if run.command != command:
            raise RunError(
                f"{folder} is a run of `nas {run.command}`, not of `nas {command}`. "
                f"Continue it with `{run.resume_command}`."
            )
        status = run.status()
        if status["status"] == "done":
            raise RunError(
                f"{folder} is already done: there is nothing to resume. Its results are in that folder; "
                f"give `nas {command}` without --resume for a new run."
            )
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A run to read from, in whatever state it is."""
        return cls._read(folder, resumed=False)

    @classmethod
    def _read(cls, folder: Path, *, resumed: bool) -> Self:
        status = read_status(folder)
        run = cls(folder, str(status["command"]), read_config(folder), resumed=resumed)
        run._start = str(status["start"])
        run._seconds_before = float(str(status["seconds"]))
        return run

    def settings(self, group: str) -> dict[str, Json]:
        """Those of one group of its config. Raises RunError where config.yaml has lost them."""
        found = self.config.get(group)
        if not isinstance(found, dict):
            raise self._lost(group)
        return found

    @property
    def seed(self) -> int:
        """Raises RunError where config.yaml has lost it."""
        found = self.config.get("seed")
        if not isinstance(found, int):
            raise self._lost("seed")
        return found

    def _lost(self, key: str) -> RunError:
        return RunError(
            f"{self.folder / 'config.yaml'} is damaged: it has no {key}. "
            "Restore the file, or start a new run with the settings you want."
        )

    def follow(self, tracker: Tracker | None) -> None:
        """Tell that tracker of the run too; call it before `with run:`."""
        self._tracking.tracker = tracker

    def __enter__(self) -> Self:
        self._lock.acquire(self._holder)
        self._clock = time.monotonic()
        if self.resumed:
            self._write_status("running")
        self._run_log.open()
        self._signals.install()
        self._tracking.start(self.command, self.config, len(self.history()) if self.resumed else 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.restore()
        told = error
        if error is not None and _is_out_of_memory(error):
            told = self._out_of_memory()
            told.__cause__ = error
        try:
            self._log_failure(error)
            self._close_files()
            self._write_status(_outcome(told), told)
            self._tracking.finish(_outcome(told))
        except TrainingError:
            if error is None:
                raise  # else the first error says more than that its status could not be written
        finally:
            self._run_log.close()
            self._lock.release()
        if told is not None and told is not error:
            raise told

    @property
    def signal_received(self) -> int | None:
        """The number of the signal that asks the run to stop.

        A loop asks this wherever it could stop, saves, and calls `raise_if_stopped`.
        """
        return self._signals.received

    def stop(self, signal: int) -> None:
        """As if that signal had come."""
        self._signals.received = self._signals.received or signal

    def raise_if_stopped(self) -> None:
        """Call it once the state is saved."""
        if self._signals.received is not None:
            raise Interrupted(
                f"Stopped as asked; the state is saved. Continue with: {self.resume_command}",
                self._signals.received,
            )

    @property
    def seconds(self) -> float:
        """The time worked until now, over all resumes; of a run that is only read, its last known time."""
        return self._seconds_before + (0.0 if self._clock is None else time.monotonic() - self._clock)

    @property
    def resume_command(self) -> str:
        return f"nas {self.command} --resume {shlex.quote(str(self.folder))}"

    def append_metrics(self, record: Mapping[str, Json]) -> None:
        """One record an epoch; `epoch` in it is the step of the curves."""
        self._metrics.append(record)
        self._tensorboard.add(record)
        self._tracking.add_metrics(record)

    def metrics(self) -> list[dict[str, Json]]:
        return self._metrics.records()

    def keep_metrics(self, count: int) -> None:
        """Take back all but the first `count` records, in TensorBoard too."""
        self._metrics.keep(count)
        epoch = self.metrics()[-1].get("epoch") if count else -1
        self._tensorboard.hide_from(epoch + 1 if isinstance(epoch, int) else count)

    def append_history(self, record: Mapping[str, Json]) -> None:
        """One record an evaluated architecture."""
        self._history.append(record)
        self._tracking.add_evaluation(record)

    def history(self) -> list[dict[str, Json]]:
        return self._history.records()

    def evaluations(self) -> list[dict[str, Json]]:
        """The history, each line with all of `EVALUATION`. Raises RunError naming the line that has not."""
        records = self.history()
        for line, record in enumerate(records, start=1):
            for key, kind in EVALUATION.items():
                if not isinstance(record.get(key), kind):
                    raise RunError(
                        f"{self.folder / 'history.jsonl'}, line {line} has no {key}, so the file was damaged "
                        "after it was written. Restore it from a copy, or start again in a new folder."
                    )
        return records

    def keep_history(self, count: int) -> None:
        """Take back all but the first `count` records."""
        self._history.keep(count)

    def save_checkpoint(self, state: Mapping[str, object]) -> None:
        """Tensors and plain values only. The lines and the seconds until now are safe with it."""
        self._metrics.sync()
        self._history.sync()
        checkpoint.save(self.path("checkpoint.pt"), state, self._fingerprint(), self._metrics.count())
        self._write_status("running")

    def load_checkpoint(self) -> dict[str, object] | None:
        """The last saved state, on the CPU; None where there is none. RunError: damaged, other settings."""
        newest = self.path("checkpoint.pt")
        lines = self._metrics.count() if self.resumed else sys.maxsize  # one that is read wants the newest
        loaded = checkpoint.load(newest, self._fingerprint(), self.resume_command, lines)
        if loaded is None:
            return None
        if loaded.path != newest:
            self.log.warning(
                f"{newest} is missing or damaged, or lines that were written before it are lost. The run "
                "goes on from the checkpoint before it; what was done since then is done again."
            )
            loaded.path.replace(newest)
        return loaded.state

    def path(self, name: str) -> Path:
        return self.folder / name

    def write_bytes(self, name: str, data: bytes) -> None:
        write_atomically(self.path(name), data)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, content: Json) -> None:
        self.write_text(name, to_json(content))

    def read_json(self, name: str) -> Json:
        """Raises RunError where the file is missing or no JSON."""
        return read_json(self.path(name))

    def status(self) -> dict[str, Json]:
        """The content of status.json: command, status, start, end, seconds, host, process, memory, error."""
        return read_status(self.folder)

    def _write_status(self, status: str, error: BaseException | None = None) -> None:
        self.write_json("status.json", self._status(status, error))

    def _status(self, status: str, error: BaseException | None = None) -> dict[str, Json]:
        content: dict[str, Json] = {
            "command": self.command,
            "status": status,
            "start": self._start,
            "end": None if status == "running" else _now(),
            "seconds": round(self.seconds, 3),
            "host": platform.node(),
            "process": os.getpid(),
            "peak_memory_mb": peak_memory_mb(),
            "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        }
        if status == "failed" and error is not None:
            content["error"] = _one_line(error)
        return content

    def _fingerprint(self) -> str:
        return hashlib.blake2b(self.path("config.yaml").read_bytes(), digest_size=16).hexdigest()

    def _out_of_memory(self) -> TrainingError:
        return TrainingError(
            f"There is no memory left (this process used {peak_memory_mb():,.0f} MB at most). Lower "
            "recipe.batch_size, space.channels or space.num_cells, or stop other programs. What was saved is "
            f"kept: with more memory free, continue with `{self.resume_command}`."
        )

    def _holder(self) -> str:
        status = self.status()
        return f"process {status.get('process')} on {status.get('host')}, since {status['start']}"

    def _close_files(self) -> None:
        self._tensorboard.close()
        self._metrics.close()
        self._history.close()

    def _log_failure(self, error: BaseException | None) -> None:
        """The file gets the traceback of what nobody expected; the CLI tells the terminal."""
        if error is not None:
            unexpected = not isinstance(error, NasError | KeyboardInterrupt)
            self.log.debug("%s", _one_line(error), exc_info=error if unexpected else None)


OUT_OF_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment",
    "Cannot allocate memory",
)
"""How torch's allocator on the CPU, its convolutions' library (oneDNN), Python and the C library say it."""


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch has an error of its own on GPUs, a RuntimeError on the CPU; libraries have others, or none."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    kinds = RuntimeError, ImportError, OSError
    if isinstance(error, kinds) and any(words in str(error) for words in OUT_OF_MEMORY):
        return True
    # A library that failed and did not say why, a module of which a part was loaded
    return isinstance(error, SystemError | ImportError | AttributeError) and is_out_of_addresses()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "done"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, NasError) else f"{type(error).__name__}: {text}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
