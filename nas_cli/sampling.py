"""The strategies that propose architectures and observe their scores, and their loop."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from nas_cli.architecture import Architecture, Json
from nas_cli.errors import ConfigError, RunError, TrainingError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.progress import Progress
from nas_cli.recipe import Count
from nas_cli.run import Run
from nas_cli.strategy import Found, Problem, Strategy

HOPELESS = 3
"""A search ends where so many architectures were scored and none of them could be trained."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to be scored at a fidelity (epochs); None means the evaluator's own."""

    architecture: Architecture
    fidelity: int | None = None


class SamplingStrategy(Strategy):
    """Proposes and observes until `num_evaluations` or the evaluator's budget.

    `num_evaluations` None means until the budget is used up, or `usual_evaluations` where there is none. The
    best of what was scored at the highest fidelity is found. A resumed search replays its history: each
    recorded evaluation is proposed again and observed again, so a strategy
    keeps no other state. What it draws comes from generators of its own, made from the problem's seed.
    """

    usual_evaluations = 10
    num_unscored = 0
    """How many proposals were made and not observed yet; more than 0 under an executor with `in_flight`."""

    def __init__(self, problem: Problem, *, num_evaluations: Count | None = None) -> None:
        super().__init__(problem)
        self.num_evaluations = num_evaluations

    @abstractmethod
    def propose(self) -> Proposal | None:
        """The next architecture to score, given all that was observed.

        `num_unscored` proposals are in flight. None where their scores are needed first.
        """

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        """Learn from a score; called once for each proposal, in the order of the proposals."""

    def search(self, run: Run, evaluator: Evaluator) -> Found:
        history = run.evaluations() if run.resumed else []
        best: Found | None = None
        with Progress("search", self._limit(evaluator), unit="evaluation", interval=0.5) as progress:
            for count, evaluated in enumerate(
                self.evaluations(evaluator, history, run.path("history.jsonl")), start=1
            ):
                if count > len(history):
                    run.append_history(_record(evaluated))
                    self._tell_failure(run, evaluated)
                best = better(best, evaluated)
                progress.update(count, score=evaluated.evaluation.score, best=best.evaluation.score)
                run.raise_if_stopped()
                if count == HOPELESS:
                    _check_success(best)
        assert best is not None, "the first evaluation is yielded or refused"
        _check_success(best)
        return best

    def _tell_failure(self, run: Run, evaluated: Found) -> None:
        if evaluated.evaluation.failure:
            spelled = self.problem.space.spell(evaluated.architecture)
            run.log.warning(f"Scored 0, since it could not be trained: {spelled}")

    def evaluations(
        self,
        evaluator: Evaluator,
        history: Sequence[Mapping[str, Json]] = (),
        source: Path = Path("history.jsonl"),
    ) -> Iterator[Found]:
        """The search without a folder: every evaluation, which is observed when the next one is asked for.

        `history`, read from `source`, is replayed first. Raises ConfigError where the budget is below the
        first evaluation, RunError where the history is of other settings.
        """
        budget, spent = evaluator.budget_seconds, 0.0
        for count, (proposal, score) in enumerate(self._submitted(evaluator, history, source)):
            evaluation = score()
            spent += evaluation.seconds
            if budget is not None and spent > budget:
                if count == 0:
                    raise _no_evaluation(budget, spent)
                return
            yield Found(proposal.architecture, evaluation, proposal.fidelity)
            self.num_unscored -= 1
            self.observe(proposal.architecture, evaluation)

    def _submitted(
        self, evaluator: Evaluator, history: Sequence[Mapping[str, Json]], source: Path
    ) -> Iterator[tuple[Proposal, Callable[[], Evaluation]]]:
        """Proposals in order, each with what waits for its score; `in_flight` of them are made ahead."""
        limit, count = self._limit(evaluator), 0
        ahead: deque[tuple[Proposal, Callable[[], Evaluation]]] = deque()
        score: Callable[[], Evaluation]
        while True:
            while len(ahead) < evaluator.in_flight and count != limit:
                if (proposal := self.propose()) is None:
                    break
                if count < len(history):
                    score = partial(_recorded, history[count], proposal, source)
                else:
                    score = evaluator.submit(proposal.architecture, proposal.fidelity)
                ahead.append((proposal, score))
                count += 1
                self.num_unscored += 1
            if not ahead:
                return
            yield ahead.popleft()

    def expected(self, evaluator: Evaluator) -> dict[int | None, float]:
        """How many evaluations of each fidelity are to be expected; none where a budget ends the search."""
        limit = self._limit(evaluator)
        return {} if limit is None else {None: float(limit)}

    def _limit(self, evaluator: Evaluator) -> int | None:
        usual = self.usual_evaluations if evaluator.budget_seconds is None else None
        return self.num_evaluations or usual


def _check_success(best: Found) -> None:
    """Raise TrainingError where even the best one could not be trained."""
    if best.evaluation.failure:
        raise TrainingError(f"No architecture could be trained so far. {best.evaluation.failure}")


def better(best: Found | None, other: Found) -> Found:
    """The one of higher fidelity, as scores of two fidelities do not compare; else the higher score."""
    return other if best is None or other.rank > best.rank else best


def _record(found: Found) -> dict[str, Json]:
    record: dict[str, Json] = {
        "picks": list(found.architecture.picks),
        "fidelity": found.fidelity,
        "score": found.evaluation.score,
        "seconds": found.evaluation.seconds,
        "metrics": dict(found.evaluation.metrics),
    }
    return record | ({"failure": found.evaluation.failure} if found.evaluation.failure else {})


def _recorded(record: Mapping[str, Json], proposal: Proposal, source: Path) -> Evaluation:
    """The evaluation on record, which must be of what is proposed now."""
    if record["picks"] != list(proposal.architecture.picks) or record["fidelity"] != proposal.fidelity:
        raise RunError(
            f"{source} holds a search with other settings: it scored {record['picks']} "
            f"where {list(proposal.architecture.picks)} is proposed now. Start a new search."
        )
    return Evaluation(
        cast(float, record["score"]),
        cast(float, record["seconds"]),
        cast(Mapping[str, float], record["metrics"]),
        str(record.get("failure", "")),
    )


def _no_evaluation(budget: float, spent: float) -> ConfigError:
    return ConfigError(
        f"evaluator.budget_seconds={budget}: the first evaluation alone costs {spent:.0f} seconds. Raise it."
    )
