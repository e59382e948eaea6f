"""Candidates are scored side by side, by worker processes on this machine."""

import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial

import torch
from loky import ProcessPoolExecutor

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.executor import LIVES, Executor, ScoredByWorkers, all_died
from nas_cli.recipe import Count

IDLE_SECONDS = 300
"""After which a worker ends by itself, so that none is left where this process was killed."""


class Processes(Executor):
    """A worker that dies costs time alone: what was in flight is scored again, the history is the same."""

    def __init__(self, *, workers: Count = 2, threads: Count = 1, in_flight: Count = 4) -> None:
        super().__init__(in_flight=in_flight)
        if in_flight < workers:
            raise ConfigError(
                f"executor.in_flight={in_flight} leaves some of executor.workers={workers} without work. "
                "Raise the first or lower the second."
            )
        self.workers, self.threads = workers, threads

    @contextmanager
    def scoring(
        self, evaluator: Evaluator, make_evaluator: Callable[[], Evaluator], log: logging.Logger
    ) -> Iterator[Evaluator]:
        pool = _Pool(self.workers, partial(_begin, make_evaluator, self.threads), log)
        try:
            yield ScoredByWorkers(evaluator, pool.submit, self.in_flight)
        finally:
            pool.close()


Task = tuple[Architecture, int | None]


class _Pool:
    """Worker processes, made anew where one of them dies."""

    def __init__(self, workers: int, begin: Callable[[], None], log: logging.Logger) -> None:
        self.workers, self.begin, self.log = workers, begin, log
        self.numbers = itertools.count()
        self.waiting: dict[int, tuple[Task, Future[Evaluation]]] = {}
        self.executor = self._make()

    def submit(self, architecture: Architecture, fidelity: int | None) -> Callable[[], Evaluation]:
        number, task = next(self.numbers), (architecture, fidelity)
        self.waiting[number] = task, self._start(task)
        return partial(self._result, number)

    def close(self) -> None:
        self.executor.shutdown(kill_workers=True)

    def _make(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, timeout=IDLE_SECONDS, initializer=self.begin)

    def _result(self, number: int) -> Evaluation:
        for _ in range(LIVES):
            try:
                result = self.waiting[number][1].result()
            except BrokenProcessPool:
                self.log.warning("A worker died. What was in its hands is scored again by new ones.")
                self._begin_anew()
            else:
                del self.waiting[number]
                return result
        raise all_died("executor.workers")

    def _begin_anew(self) -> None:
        self.close()
        self.executor = self._make()
        for number, (task, future) in self.waiting.items():
            if future.cancelled() or not future.done() or future.exception() is not None:
                self.waiting[number] = task, self._start(task)

    def _start(self, task: Task) -> Future[Evaluation]:
        """Processes that know of a death take no more work: told of when the result is asked for."""
        future: Future[Evaluation]
        try:
            future = self.executor.submit(_score, *task)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        return future


_makers: list[Callable[[], Evaluator]] = []
"""In a worker, what makes the evaluator that it scores with."""


def _begin(make_evaluator: Callable[[], Evaluator], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent saves, then ends them
    torch.set_num_threads(threads)
    _makers[:] = [make_evaluator]


def _score(architecture: Architecture, fidelity: int | None) -> Evaluation:
    return _evaluator().evaluate(architecture, fidelity)


@cache
def _evaluator() -> Evaluator:
    """Made for the first score, so that an error is told as one of scoring and not as a worker's death."""
    return _makers[0]()
