"""Candidates are scored one after the other, in this process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nas_cli.evaluator import Evaluator
from nas_cli.executor import Executor
from nas_cli.recipe import Count


class Serial(Executor):
    """With `in_flight` it does what as many workers would, in their order: their reference."""

    def __init__(self, *, in_flight: Count = 1) -> None:
        super().__init__(in_flight=in_flight)

    @contextmanager
    def scoring(
        self, evaluator: Evaluator, make_evaluator: Callable[[], Evaluator], log: logging.Logger
    ) -> Iterator[Evaluator]:
        evaluator.in_flight = self.in_flight
        yield evaluator
