"""Candidates are scored by the workers of a Ray cluster, or of a Ray that is started on this machine."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError, NasError, TrainingError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.executor import LIVES, Executor, ScoredByWorkers, all_died
from nas_cli.extras import require
from nas_cli.recipe import Count

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No statistics to anybody; a worker without GPUs of its own sees what there is. What the user set stays."""


class Ray(Executor):
    """Each evaluation is a task; Ray gives it to any machine with so many threads and GPUs free.

    Machines may come and go: what a lost one had in its hands is scored again elsewhere, and the history is
    the same. Raises ConfigError where Ray is not installed, no cluster answers, or none of its machines is
    large enough.
    """

    def __init__(
        self,
        *,
        address: str = "local",
        threads: Count = 1,
        gpus: Annotated[float, Field(ge=0)] = 0.0,
        in_flight: Count = 4,
    ) -> None:
        super().__init__(in_flight=in_flight)
        require("ray", "executor=ray")
        self.address, self.threads, self.gpus = address, threads, gpus

    @contextmanager
    def scoring(
        self, evaluator: Evaluator, make_evaluator: Callable[[], Evaluator], log: logging.Logger
    ) -> Iterator[Evaluator]:
        import ray

        with _connection(self.address):
            self._check_size([node["Resources"] for node in ray.nodes() if node["Alive"]])
            begin = ray.put(_Beginning(make_evaluator, self.threads, Path.cwd(), tuple(sys.path)))
            score = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_score)
            tasks = _Tasks(partial(score.remote, begin), log)
            yield ScoredByWorkers(evaluator, tasks.submit, self.in_flight)

    def _check_size(self, nodes: list[dict[str, float]]) -> None:
        """Ray would wait for a machine that is large enough."""
        if any(node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= self.gpus for node in nodes):
            return
        sizes = ", ".join(f"{node.get('CPU', 0):g} threads and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise ConfigError(
            f"executor.threads={self.threads} executor.gpus={self.gpus:g}: no machine of the Ray cluster has "
            f"so many. It has: {sizes}. Lower them, or add a machine with `ray start --address=...`."
        )


@contextmanager
def _connection(address: str) -> Iterator[None]:
    """Ray takes SIGTERM for itself, which the run needs for its last checkpoint."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import RayError

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ConfigError(
            f"executor.address={address}: no Ray cluster answers there. Start one with `ray start --head` "
            "and give its HOST:PORT, or set executor.address=local."
        ) from error
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody answers at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Tasks:
    """What is in the hands of Ray."""

    def __init__(self, start: Callable[[Architecture, int | None], object], log: logging.Logger) -> None:
        self.start, self.log = start, log

    def submit(self, architecture: Architecture, fidelity: int | None) -> Callable[[], Evaluation]:
        return partial(self._result, architecture, fidelity, self.start(architecture, fidelity))

    def _result(self, architecture: Architecture, fidelity: int | None, task: object) -> Evaluation:
        import ray
        from ray.exceptions import (
            NodeDiedError,
            ObjectLostError,
            OutOfMemoryError,
            RayTaskError,
            WorkerCrashedError,
        )

        for _ in range(LIVES):
            try:
                return cast(Evaluation, ray.get(task))
            except (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError):
                self.log.warning("A worker died. What was in its hands is scored again by another one.")
                task = self.start(architecture, fidelity)
            except RayTaskError as error:
                raise _as_it_was(error.cause) from error
        raise all_died("executor.in_flight")


def _as_it_was(cause: Exception) -> Exception:
    if isinstance(cause, NasError):
        return cause
    return TrainingError(f"An evaluation failed in a worker of Ray: {type(cause).__name__}: {cause}")


@dataclass(frozen=True)
class _Beginning:
    """What a worker needs to score as this process would."""

    make_evaluator: Callable[[], Evaluator]
    threads: int
    folder: Path
    path: tuple[str, ...]

    def __call__(self) -> Evaluator:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent saves, then ends them
        sys.path += [entry for entry in self.path if entry not in sys.path]
        with suppress(OSError):  # another machine may not have it
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        return self.make_evaluator()


_made: list[Evaluator] = []
"""In a worker, the evaluator that it scores with."""


def _score(begin: _Beginning, architecture: Architecture, fidelity: int | None) -> Evaluation:
    if not _made:
        _made.append(begin())
    return _made[0].evaluate(architecture, fidelity)
