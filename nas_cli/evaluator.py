"""How good one architecture is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from nas_cli.architecture import Architecture
from nas_cli.errors import UnsupportedError
from nas_cli.rehearsal import Piece


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`score` is to be maximised; `seconds` is what it cost, measured or simulated by a benchmark's table.

    `failure` says why an architecture could not be scored; then its score is 0.
    """

    score: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


class Evaluator(ABC):
    """Scores architectures one at a time; constructed as `Evaluator(problem, supernet, *, settings)`.

    `supernet` is the one a weight-sharing strategy trains, None where the strategy samples. The score
    of an architecture depends on the problem's seed and the fidelity alone: asked twice, it is the same.
    `budget_seconds`, where set, ends a search: an evaluation that would exceed it is not counted. `unit` is
    what the scores are told in: percent of accuracy, or none. `metrics` names what every evaluation brings
    besides its score; all of them are costs.
    """

    in_flight = 1
    """How many architectures it is given before the score of the first is asked for."""
    budget_seconds: float | None = None
    unit: str = "%"
    metrics: tuple[str, ...] = ()

    @abstractmethod
    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        """Score one architecture; `fidelity` (epochs) None means the evaluator's own setting."""

    def submit(self, architecture: Architecture, fidelity: int | None = None) -> Callable[[], Evaluation]:
        """Have one scored; what is returned waits for its score. Here nothing is done before that."""
        return partial(self.evaluate, architecture, fidelity)

    def check_fidelity(self, fidelity: int) -> None:
        """Raise InputError where it cannot score at that fidelity, which is so unless a subclass can."""
        raise UnsupportedError(
            f"This strategy scores at several fidelities, such as {fidelity} epochs, and evaluator="
            f"{type(self).__name__} has one alone. "
            "Use evaluator=from_scratch, or a table with evaluator=tabular."
        )

    def pieces(self, architecture: Architecture, evaluations: Mapping[int | None, float]) -> list[Piece]:
        """What scoring consists of when so many architectures like this one are scored at each fidelity.

        Nothing where that takes no time to speak of, or none can be told.
        """
        return []

    def report(self, architecture: Architecture) -> Mapping[str, float]:
        """What is told of the winner at the end and never searched on, such as a table's test accuracy."""
        return {}
