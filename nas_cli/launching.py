"""A command in this process, or in several that train together, started by torch's elastic launcher.

Each of them runs the whole command with the same settings. The first one works in the run folder; the
others work in folders that are thrown away, say nothing, and tell no tracker.
"""

import importlib
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig

from nas_cli import errors, garbage
from nas_cli.errors import ConfigError, Interrupted, NasError, TrainingError, UnsupportedError
from nas_cli.run.signals import handled

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig

TRAINING = ("search", "retrain")


def command(name: str) -> Callable[..., None]:
    """Commands are imported when they run: most of them import torch."""
    run = cast(Callable[..., None], importlib.import_module(f"nas_cli.commands.{name}").run)
    garbage.look_from_here_on()
    return run


def run(name: str, config: DictConfig, folder: Path, *, resume: bool = False) -> None:
    """`nas search` or another command that leaves a folder, on as many processes as the trainer asks for."""
    job = _Job(name, config, folder, resume)
    if name not in TRAINING:
        check_one_device(name, config)
    if num_processes(config) == 1 and not _is_launched():
        job.here()
    elif _is_launched():
        _check_launched(config)
        job.as_rank()
    else:
        _launch(job)


def num_processes(config: DictConfig) -> int:
    trainer = config.get("trainer")
    return int(trainer.devices) * int(trainer.nodes) if trainer else 1


def check_one_device(name: str, config: DictConfig) -> None:
    """Raise UnsupportedError where several processes are asked for what one does."""
    if num_processes(config) > 1:
        raise UnsupportedError(
            f"trainer.devices={config.trainer.devices} trainer.nodes={config.trainer.nodes}: `nas {name}` "
            "works on one device. Leave them out."
        )


def follows(config: DictConfig) -> bool:
    """Whether the run folder is written elsewhere: by another rank of torchrun's, or on another machine."""
    launched_after = _is_launched() and int(os.environ["RANK"]) > 0
    return launched_after or (num_processes(config) > 1 and int(config.trainer.node) > 0)


def check_sweep(config: DictConfig) -> None:
    """Raise UnsupportedError for a job of a sweep that several machines would have to begin together."""
    if _is_launched() or (num_processes(config) > 1 and int(config.trainer.nodes) > 1):
        raise UnsupportedError(
            "-m starts one job after the other, and several machines or torchrun would each start their own. "
            "Leave -m out and give the jobs one by one, or set trainer.nodes=1 and leave torchrun out."
        )


def _is_launched() -> bool:
    """Under `torchrun -m nas_cli ...`."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def _check_launched(config: DictConfig) -> None:
    started = int(os.environ["WORLD_SIZE"])
    if started != num_processes(config):
        raise ConfigError(
            f"trainer.devices={config.trainer.devices} trainer.nodes={config.trainer.nodes}, but torchrun "
            f"started {started} processes. Make them agree, or leave torchrun out: `nas` starts its own."
        )


@dataclass(frozen=True)
class _Job:
    name: str
    config: DictConfig
    folder: Path
    resume: bool

    def here(self) -> None:
        command(self.name)(self.config, self.folder, **({"resume": True} if self.resume else {}))

    def as_rank(self) -> None:
        """In one of several processes, which know each other by the launcher's environment variables."""
        from nas_cli import ranks
        from nas_cli.config import build
        from nas_cli.trainer import Trainer

        with ranks.joined(build(Trainer, self.config.trainer).device.type):
            if ranks.rank() == 0:
                ranks.wait_for_all()
                self.here()
            else:
                with _aside(self) as job:
                    ranks.wait_for_all()  # a resumed folder is copied before it is written to
                    job.here()


@contextmanager
def _aside(job: _Job) -> Iterator[_Job]:
    """The same job in a folder of its own, and in silence."""
    with tempfile.TemporaryDirectory(prefix="nas-") as scratch, Path(os.devnull).open("w") as nowhere:
        folder = Path(scratch) / "run"
        if job.resume:
            shutil.copytree(job.folder, folder, ignore=shutil.ignore_patterns("tensorboard", "tracker.json"))
        config = job.config.copy()
        config.tracker = None
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield _Job(job.name, config, folder, job.resume)
        except NasError as error:
            error.args = (str(error).replace(str(folder), str(job.folder)), *error.args[1:])
            raise


def _launch(job: _Job) -> None:
    """Start the processes of this machine, and wait for them. Raises what one of them raised."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # errors are told below
    with tempfile.TemporaryDirectory(prefix="nas-") as logs, _Forwarding() as forwarding:
        launch = elastic_launch(_settings(job.config, logs), _work)
        try:
            # In a thread the launcher leaves the signals alone.
            with ThreadPoolExecutor(1) as thread:
                results = thread.submit(launch, job).result()
        except ChildFailedError as error:
            forwarding.raise_if_ended()
            raise _as_raised(job, *error.get_first_failure()) from error
    stopped = [result for _, result in sorted(results.items()) if result]
    if stopped:
        raise Interrupted(*stopped[0])
    forwarding.raise_if_ended()


def _settings(config: DictConfig, logs: str) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    trainer = config.trainer
    several = int(trainer.nodes) > 1
    return LaunchConfig(
        min_nodes=trainer.nodes,
        max_nodes=trainer.nodes,
        nproc_per_node=trainer.devices,
        run_id="nas" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=trainer.rendezvous if several else "127.0.0.1:0",
        rdzv_configs={"rank": trainer.node} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
    )


def _work(job: _Job) -> tuple[str, int] | None:
    """In a process that was started. A stop on a signal is no failure: its message and signal."""
    os.setsid()  # Ctrl-C reaches the starting process alone, which hands it on once
    try:
        job.as_rank()
    except Interrupted as stop:
        return str(stop), stop.signal_number
    return None


class _Forwarding:
    """SIGINT, SIGTERM and SIGHUP go to the processes that were started, which save their state and end."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Forwarding":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._forward) for number in handled()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def raise_if_ended(self) -> None:
        """After a signal that found nothing to be saved."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)


def _as_raised(job: _Job, rank: int, failure: "ProcessFailure") -> NasError:
    """The error of that process, as it would be without the others."""
    told = failure.error_file_data["message"]
    if not isinstance(told, dict):
        return TrainingError(
            f"Process {failure.pid} of this training ended by {_ending(failure.exitcode)}, and the others "
            f"with it. What was saved before is kept: continue with `nas {job.name} --resume {job.folder}`."
        )
    name, _, text = str(told["message"]).partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, NasError):
        return kind(text)
    log = job.folder / f"{job.name}.log"
    if rank > 0:
        with log.open("a", encoding="utf-8") as file:
            file.write(str(told["extraInfo"]["py_callstack"]))
    return TrainingError(f"{name}: {text} (unexpected; full traceback in {log})")


def _ending(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"itself with exit code {exit_code}"
