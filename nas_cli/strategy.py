"""How a space is searched: what every strategy is given and gives back.

There are two families with a loop each, in `sampling.py` and `weight_sharing.py`.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass

from nas_cli.architecture import Architecture
from nas_cli.budget import TRIES, Affordable
from nas_cli.data import ImageData
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.space import SearchSpace
from nas_cli.supernet import Supernet, SupernetOptions
from nas_cli.trainer import Trainer


@dataclass(frozen=True)
class Problem:
    """What is searched, on which images, and how weights are trained."""

    space: SearchSpace
    data: ImageData
    recipe: Recipe
    trainer: Trainer
    supernet: SupernetOptions
    seed: int
    affordable: Affordable | None = None

    def sample(self, rng: random.Random) -> Architecture:
        """A uniform sample of what the budget allows."""
        return (self.affordable or self.space).sample(rng)

    def mutate(self, parent: Architecture, rng: random.Random) -> Architecture:
        """The parent with one pick changed, among what the budget allows."""
        return (self.affordable or self.space).mutate(parent, rng)

    def sample_new(self, rng: random.Random, known: Container[Architecture]) -> Architecture:
        """A sample whose canonical form is not `known`, unless many tries in a row meet with known ones."""
        for _ in range(TRIES):
            architecture = self.sample(rng)
            if self.space.canonical(architecture) not in known:
                break
        return architecture

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All that differ in one pick, among what the budget allows."""
        return [one for one in self.space.neighbours(architecture) if self.allows(one)]

    def allows(self, architecture: Architecture) -> bool:
        """Whether it keeps to the budget, for strategies that write architectures by themselves."""
        return self.affordable is None or self.affordable.allows(architecture)


@dataclass(frozen=True, slots=True)
class Found:
    """An architecture with its evaluation (at a fidelity); what a search ends with."""

    architecture: Architecture
    evaluation: Evaluation
    fidelity: int | None = None

    @property
    def rank(self) -> tuple[int, float]:
        return self.fidelity or 0, self.evaluation.score


class Strategy(ABC):
    """Constructed as `Strategy(problem, *, settings)`; `supernet` is None where no weights are shared.

    `fidelities` are those that will be asked for, none where the evaluator's own is taken.
    """

    supernet: Supernet | None = None
    fidelities: tuple[int, ...] = ()

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def check_evaluator(self, evaluator: Evaluator) -> None:
        """Raise InputError, before a run folder is made, where it cannot score what will be proposed."""
        for fidelity in self.fidelities:
            evaluator.check_fidelity(fidelity)

    @abstractmethod
    def search(self, run: Run, evaluator: Evaluator) -> Found:
        """The whole search, which continues what `run` already holds where it is resumed."""
