"""Reinforcement learning: a recurrent controller writes architectures (NASNet, arXiv:1707.07012)."""

import random
from typing import Literal

import torch

from nas_cli.architecture import Architecture
from nas_cli.budget import TRIES
from nas_cli.controller import Controller, architectures_of, make_policy
from nas_cli.evaluator import Evaluation
from nas_cli.recipe import Count, NonNegative, Positive, Share
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for, stream
from nas_cli.strategy import Problem

MOST_REPEATS = 3
"""Samples in a row whose score is remembered, after which one is scored again."""


class ReinforcementLearning(SamplingStrategy):
    """The controller proposes, and learns from the scores of `children_per_update` architectures at a time.

    `algorithm=reinforce` is that of arXiv:1611.01578; `ppo` is NASNet's, whose epochs and clip its paper
    leaves open. An architecture that the controller writes again is not scored again: it learns from the
    score remembered, which is the same. The best architecture seen is found.

    Deviations: the defaults are for some hundred children where the papers train 12,800 and 20,000, so the
    learning rate (papers: 6e-4, 3.5e-4) and the entropy weight (NASNet: 1e-5 of an accuracy from 0 to 1)
    are higher; advantages are in units of their own spread; the score is the reward as it is (1611.01578
    cubes the best of five epochs); two layers of 100 units (1611.01578: two of 35; NASNet: one of 100).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: Count | None = None,
        algorithm: Literal["reinforce", "ppo"] = "reinforce",
        children_per_update: Count = 1,
        controller_learning_rate: Positive = 3e-3,
        baseline_decay: Share = 0.9,
        entropy_weight: NonNegative = 0.1,
        ppo_clip: Positive | None = None,
        ppo_epochs: Count | None = None,
        temperature: Positive = 1.0,
        tanh_constant: Positive | None = None,
    ) -> None:
        super().__init__(problem, num_evaluations=num_evaluations)
        self.controller = Controller(
            problem.space.choices, problem.seed, temperature=temperature, tanh_constant=tanh_constant
        )
        self.policy = make_policy(
            self.controller,
            algorithm,
            learning_rate=controller_learning_rate,
            baseline_decay=baseline_decay,
            entropy_weight=entropy_weight,
            ppo_clip=ppo_clip,
            ppo_epochs=ppo_epochs,
        )
        self.children_per_update = children_per_update
        self.children: list[tuple[Architecture, float]] = []
        self.scores: dict[Architecture, float] = {}
        self.draws = stream(problem.seed, "reinforcement learning")
        self.rng = random.Random(seed_for(problem.seed, "reinforcement learning"))

    def propose(self) -> Proposal:
        """What the controller writes that was not scored before, or a repeat where it writes nothing else."""
        for _ in range(MOST_REPEATS):
            architecture = self._write()
            known = self.scores.get(self.problem.space.canonical(architecture))
            if known is None:
                break
            self._learn(architecture, known)
        return Proposal(architecture)

    def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
        self.scores[self.problem.space.canonical(architecture)] = evaluation.score
        self._learn(architecture, evaluation.score)

    def _write(self) -> Architecture:
        """A sample of the policy within the budget, or of the space where the policy finds none."""
        count = 1 if self.problem.affordable is None else TRIES
        written = architectures_of(self.controller.sample(self.draws, count))
        allowed = (architecture for architecture in written if self.problem.allows(architecture))
        return next(allowed, None) or self.problem.sample(self.rng)

    def _learn(self, architecture: Architecture, score: float) -> None:
        self.children.append((architecture, score))
        if len(self.children) == self.children_per_update:
            picks = torch.tensor([child.picks for child, _ in self.children])
            self.policy.update(picks, torch.tensor([score for _, score in self.children]))
            self.children.clear()
