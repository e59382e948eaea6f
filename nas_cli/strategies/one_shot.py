"""One-shot search: train a supernet path by path, then let evolution search in it (arXiv:1904.00420)."""

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.data import Batch
from nas_cli.errors import ConfigError
from nas_cli.evaluator import Evaluator
from nas_cli.optimizers import Adam
from nas_cli.recipe import Count, Positive
from nas_cli.run import Run
from nas_cli.seeds import stream
from nas_cli.space import SearchSpace
from nas_cli.strategies.darts import frozen
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategies.scored_front import CostName, FrontOfHistory
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate
from nas_cli.training import Descent, State, mean_of
from nas_cli.weight_sharing import WeightSharingStrategy


class OneShot(WeightSharingStrategy):
    """Trains the supernet under the paths that `sampling` draws; the best path that evolution finds is found.

    `uniform`: one path a batch, every architecture as likely as another (arXiv:1904.00420). `fair`: as many
    paths a batch as the largest choice has options, so that every option of it is trained once a step
    (strict fairness, arXiv:1907.01845); see `fair_paths` for smaller choices. `soft`: all candidates,
    weighted by the softmax of learnt path weights. `hard`: the candidates of the greatest path weight alone.
    Path weights descend on the architecture's part as in DARTS; the gradient of `hard` is that of `soft` at
    the hard gates (straight-through), for which every candidate of the architecture's batch is run.

    Evolution scores paths with recalibrated batch statistics; the front of score and `front_cost` is left
    in front.json (see FrontOfHistory). Deviations: it is regularised evolution
    (arXiv:1802.01548), not the papers' own kinds. `fair` draws from the whole space, also where what may be
    proposed is less. Under `hard` a candidate that never was the greatest is scored with untrained weights,
    and path weights before a node whose greatest is `none` stand still.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        sampling: Literal["uniform", "fair", "soft", "hard"] = "uniform",
        path_learning_rate: Positive | None = None,
        num_evaluations: Count = 200,
        population_size: Annotated[int, Field(ge=2)] = 20,
        tournament_size: Count = 5,
        front_cost: CostName | None = None,
    ) -> None:
        super().__init__(problem)
        self.front = FrontOfHistory(problem, front_cost)
        self.sampling = sampling
        self.num_scored = num_evaluations
        self.learns_paths = sampling in ("soft", "hard")
        if path_learning_rate and not self.learns_paths:
            raise ConfigError(
                f"strategy.path_learning_rate={path_learning_rate} has no effect on "
                f"strategy.sampling={sampling}, which learns no path weights. Leave it out."
            )
        self.evolution = Evolution(
            problem,
            num_evaluations=num_evaluations,
            population_size=population_size,
            tournament_size=tournament_size,
        )
        device, draws = problem.trainer.device, stream(problem.seed, "path weights")
        self.logits = [
            nn.Parameter((1e-3 * torch.randn(shape, generator=draws)).to(device))
            for shape in self.supernet.gate_shapes
        ]
        self.optimizer = Adam(self.logits, lr=path_learning_rate or 3e-4, betas=(0.5, 0.999))

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """Where no path weights learn, the architecture's part waits for the evolution."""
        if self.learns_paths:
            return super().batches(first, last)
        return ((batch, batch) for batch in self.train_data.steps(first, last))

    @torch.no_grad()
    def paths(self) -> list[list[Gate]]:
        if self.sampling == "soft":
            return [self._learnt_gates()]
        if self.sampling == "hard":
            return [[Gate.one_hot(rows.argmax(-1).tolist(), rows.shape[1], rows) for rows in self.logits]]
        rng = random.Random(self.draws.initial_seed())
        drawn = fair_paths(self.problem.space, rng) if self.sampling == "fair" else [self.problem.sample(rng)]
        return [self.supernet.gates_of(architecture) for architecture in drawn]

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        if not self.learns_paths:
            return
        with frozen(self.supernet):
            gradients = [self._gradient(part) for part in self.problem.recipe.parts(valid)]
        for rows, gradient in zip(self.logits, mean_of(gradients), strict=True):
            rows.grad = gradient
        self.optimizer.step()

    def _gradient(self, valid: Batch) -> Sequence[Tensor]:
        loss, _ = self.validate(valid, self._learnt_gates())
        return torch.autograd.grad(loss, self.logits)

    def derive(self, run: Run, evaluator: Evaluator) -> Architecture:
        found = self.evolution.search(run, evaluator).architecture
        self.front.write(run)
        return found

    def _learnt_gates(self) -> list[Gate]:
        """All candidates run, by the softmax of the path weights or, in value only, by its greatest."""
        weights = [rows.softmax(-1) for rows in self.logits]
        if self.sampling == "hard":
            weights = [_greatest(rows) + (rows - rows.detach()) for rows in weights]
        return [Gate.soft(rows) for rows in weights]

    @torch.no_grad()
    def gate_weights(self) -> list[Tensor] | None:
        return [rows.softmax(-1) for rows in self.logits] if self.learns_paths else None

    def architecture_state(self) -> State:
        return {"logits": [rows.detach() for rows in self.logits], "optimizer": self.optimizer.state_dict()}

    def load_architecture_state(self, state: State) -> None:
        for rows, saved in zip(self.logits, cast(list[Tensor], state["logits"]), strict=True):
            rows.data.copy_(saved)
        self.optimizer.load_state_dict(cast(State, state["optimizer"]))


def fair_paths(space: SearchSpace, rng: random.Random) -> list[Architecture]:
    """As many architectures as the largest choice has options; each option of it is in exactly one.

    The options of a smaller choice go round in a new order each time, so that none is in more than one
    architecture more than another.
    """
    sizes = [len(choice.options) for choice in space.choices]
    columns = [_round_robin(size, max(sizes), rng) for size in sizes]
    return [Architecture(picks) for picks in zip(*columns, strict=True)]


def _round_robin(size: int, count: int, rng: random.Random) -> list[int]:
    rounds = -(-count // size)
    return [pick for _ in range(rounds) for pick in rng.sample(range(size), size)][:count]


def _greatest(weights: Tensor) -> Tensor:
    """One for the greatest of each row (rows, candidates), zero elsewhere."""
    return torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)
