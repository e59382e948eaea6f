"""The Pareto front of what a search has scored: the score against one or several costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from nas_cli.architecture import Architecture, Json
from nas_cli.budget import CostMeter
from nas_cli.drawing import front_svg
from nas_cli.errors import ConfigError
from nas_cli.front import pareto_indices
from nas_cli.run import Run
from nas_cli.space import SearchSpace
from nas_cli.strategy import Problem

CostName = Literal["parameters", "multiply_adds", "latency_ms"]
COUNTED: dict[str, str] = {"parameters": "params", "multiply_adds": "macs", "latency_ms": "latency_ms"}
"""Costs that are counted or predicted, and what budgets call them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`costs` are to be minimised, the score to be maximised."""

    architecture: Architecture
    score: float
    costs: Mapping[str, float]


def write_front(run: Run, space: SearchSpace, scored: Sequence[Scored]) -> None:
    """front.json: the distinct networks that no other beats in everything, the best score first.

    front.svg draws all that were scored, and the front, over the first cost.
    """
    rows = [(-one.score, *one.costs.values()) for one in scored]
    members = {space.canonical(scored[row].architecture): scored[row] for row in pareto_indices(rows)}
    front = sorted(members.values(), key=lambda member: -member.score)
    run.write_json("front.json", [_entry(space, member) for member in front])
    name = next(iter(scored[0].costs))
    run.write_text("front.svg", front_svg(_points(scored, name), _points(front, name), name))


def _entry(space: SearchSpace, member: Scored) -> Json:
    return {
        "choices": cast(dict[str, Json], space.options_of(member.architecture)),
        "score": member.score,
        "objectives": dict(member.costs),
    }


def _points(scored: Sequence[Scored], name: str) -> list[tuple[float, float]]:
    return [(one.costs[name], one.score) for one in scored]


def meter_of(problem: Problem) -> CostMeter:
    """That of the budget, which may have counted much already."""
    if problem.affordable is not None:
        return problem.affordable.meter
    return CostMeter(problem.space, problem.data.info)


class FrontOfHistory:
    """The front of the history that a search with shared weights leaves: of its score and one cost.

    `cost` None: the one that the budget limits first, multiply-adds without a budget.
    Raises ConfigError for a latency without a table.
    """

    def __init__(self, problem: Problem, cost: CostName | None) -> None:
        self.problem, self.meter = problem, meter_of(problem)
        limits = problem.affordable.limits if problem.affordable else {}
        limited = [name for name, limit in COUNTED.items() if limit in limits]
        self.cost: str = cost or (limited or ["multiply_adds"])[0]
        if self.cost == "latency_ms" and self.meter.predict is None:
            raise ConfigError(
                "strategy.front_cost=latency_ms needs budget.latency_ms and budget.latency_table: the file "
                "that `nas latency` writes for this space."
            )

    def write(self, run: Run) -> None:
        scored = []
        for record in run.evaluations():
            architecture = self.problem.space.architecture_at(cast(list[Json], record["picks"]))
            cost = self.meter.cost(COUNTED[self.cost], architecture)
            scored.append(Scored(architecture, cast(float, record["score"]), {self.cost: cost}))
        write_front(run, self.problem.space, scored)
