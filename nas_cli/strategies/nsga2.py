"""NSGA-II for several objectives (Deb et al. 2002; for architectures NSGA-Net, arXiv:1810.03522)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nas_cli.architecture import Architecture
from nas_cli.budget import TRIES
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.front import survivors
from nas_cli.recipe import Count
from nas_cli.run import Run
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for
from nas_cli.strategies.scored_front import COUNTED, Scored, meter_of, write_front
from nas_cli.strategy import Found, Problem


@dataclass(frozen=True, slots=True)
class Member:
    """Of the population: `rank` 0 is its front."""

    architecture: Architecture
    costs: tuple[float, ...]
    rank: int = 0


class Nsga2(SamplingStrategy):
    """Keeps those of parents and children that are on the better fronts and, of one front, the lonelier ones.

    `score` is maximised, every other objective is minimised: `parameters`, `multiply_adds`, `latency_ms`
    where the budget has a table of it, or what the evaluator measures. The search finds the best score and
    leaves the front of all evaluations in front.json.

    A child is the winner of a binary tournament, crossed over pick by pick with that of another in a
    `crossover_share` of cases, and one pick of it is mutated. Deviations: the papers cross over nearly always
    and mutate each pick with a small probability; their tournament decides between equal ranks by crowding,
    here by chance; crowding is of places (`front.survivors`). Children do not repeat a network
    (`space.canonical`), unless the whole space seems known.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        objectives: Annotated[tuple[str, ...], Field(min_length=2)] = ("score", "parameters"),
        population_size: Annotated[int, Field(ge=4)] = 20,
        crossover_share: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        if "score" not in objectives or len(set(objectives)) < len(objectives):
            raise ConfigError(
                f"strategy.objectives=[{','.join(objectives)}] must have `score` and no name twice, for "
                "instance strategy.objectives=[score,parameters]."
            )
        self.objectives = objectives
        self.population_size = population_size
        self.crossover_share = crossover_share
        self.meter = meter_of(problem)
        self.rng = random.Random(seed_for(problem.seed, "nsga2"))
        self.known: set[Architecture] = set()
        self.evaluated: list[Member] = []
        self.population: list[Member] = []

    def check_evaluator(self, evaluator: Evaluator) -> None:
        super().check_evaluator(evaluator)
        counted = [name for name in COUNTED if name != "latency_ms" or self.meter.predict]
        known = ("score", *counted, *evaluator.metrics)
        if unknown := [name for name in self.objectives if name not in known]:
            raise ConfigError(
                f"strategy.objectives: {unknown[0]!r} is neither counted nor measured by evaluator="
                f"{type(evaluator).__name__}. There are {', '.join(known)}; a table's columns are measured "
                "with evaluator.metrics=[...], and latency_ms is predicted with budget.latency_ms."
            )

    def propose(self) -> Proposal:
        if not self.population:
            return Proposal(self.problem.sample_new(self.rng, self.known))
        for _ in range(TRIES):
            child = self._child()
            if self.problem.space.canonical(child) not in self.known:
                return Proposal(child)
        return Proposal(self.problem.sample_new(self.rng, self.known))

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.known.add(self.problem.space.canonical(architecture))
        costs = tuple(self._cost(name, architecture, evaluation) for name in self.objectives)
        self.evaluated.append(Member(architecture, costs))
        if len(self.evaluated) % self.population_size == 0:
            self._survive([*self.population, *self.evaluated[-self.population_size :]])

    def search(self, run: Run, evaluator: Evaluator) -> Found:
        found = super().search(run, evaluator)
        write_front(run, self.problem.space, [self._scored(member) for member in self.evaluated])
        return found

    def _scored(self, member: Member) -> Scored:
        costs = dict(zip(self.objectives, member.costs, strict=True))
        return Scored(member.architecture, -costs.pop("score"), costs)

    def _child(self) -> Architecture:
        mother, father = self._winner(), self._winner()
        picks = mother.picks
        if self.rng.random() < self.crossover_share:
            picks = tuple(self.rng.choice(pair) for pair in zip(picks, father.picks, strict=True))
        return self.problem.mutate(Architecture(picks), self.rng)

    def _winner(self) -> Architecture:
        two = self.rng.sample(self.population, 2)
        return min(two, key=lambda member: member.rank).architecture

    def _survive(self, members: Sequence[Member]) -> None:
        chosen = survivors(
            [member.costs for member in members], self.population_size, self.rng.getrandbits(32)
        )
        self.population = [
            Member(members[row].architecture, members[row].costs, rank) for row, rank in chosen
        ]

    def _cost(self, name: str, architecture: Architecture, evaluation: Evaluation) -> float:
        if name == "score":
            return -evaluation.score
        if name in evaluation.metrics:
            return evaluation.metrics[name]
        return self.meter.cost(COUNTED[name], architecture)
