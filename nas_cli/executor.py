"""Where a search that samples has its candidates scored."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from nas_cli.architecture import Architecture
from nas_cli.errors import TrainingError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Count
from nas_cli.rehearsal import Piece

LIVES = 3
"""So many times an evaluation is tried whose worker died."""


class Executor(ABC):
    """Constructed as `Executor(*, settings)`.

    Proposal t is made when the scores up to t - `in_flight` were observed, whatever else is done by then: how
    many workers there are and how fast they are changes nothing.
    """

    def __init__(self, *, in_flight: Count) -> None:
        self.in_flight = in_flight

    @abstractmethod
    def scoring(
        self, evaluator: Evaluator, make_evaluator: Callable[[], Evaluator], log: logging.Logger
    ) -> AbstractContextManager[Evaluator]:
        """The evaluator, scoring as this executor does. `make_evaluator` makes another one in a process."""


class ScoredByWorkers(Evaluator):
    """An evaluator whose scores come from workers; all else is its own."""

    def __init__(
        self,
        evaluator: Evaluator,
        submit: Callable[[Architecture, int | None], Callable[[], Evaluation]],
        in_flight: int,
    ) -> None:
        self.evaluator, self.submit_to_workers, self.in_flight = evaluator, submit, in_flight
        self.budget_seconds, self.unit, self.metrics = (
            evaluator.budget_seconds,
            evaluator.unit,
            evaluator.metrics,
        )

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        return self.submit(architecture, fidelity)()

    def submit(self, architecture: Architecture, fidelity: int | None = None) -> Callable[[], Evaluation]:
        return self.submit_to_workers(architecture, fidelity)

    def check_fidelity(self, fidelity: int) -> None:
        self.evaluator.check_fidelity(fidelity)

    def pieces(self, architecture: Architecture, evaluations: Mapping[int | None, float]) -> list[Piece]:
        return self.evaluator.pieces(architecture, evaluations)

    def report(self, architecture: Architecture) -> Mapping[str, float]:
        return self.evaluator.report(architecture)


def all_died(setting: str) -> TrainingError:
    """Of workers that died as often as one evaluation may be tried; `setting` is what makes them smaller."""
    return TrainingError(
        f"{LIVES} workers in a row died while they scored an architecture, for instance for want of "
        f"memory. Lower {setting} or recipe.batch_size; what was scored before is kept."
    )
