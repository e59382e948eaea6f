"""Where a search that samples has its candidates scored."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from nas_cli.evaluator import Evaluator
from nas_cli.recipe import Count


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
