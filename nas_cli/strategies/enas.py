"""ENAS: Efficient Neural Architecture Search via Parameter Sharing (arXiv:1802.03268)."""

import random
from collections.abc import Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from nas_cli import ranks
from nas_cli.architecture import Architecture, Json
from nas_cli.controller import Controller, Reinforce, architectures_of
from nas_cli.data import Batch
from nas_cli.evaluator import Evaluator
from nas_cli.recipe import Count, NonNegative, Positive, Share
from nas_cli.run import Run
from nas_cli.sampling import Proposal, SamplingStrategy
from nas_cli.seeds import seed_for, stream
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate
from nas_cli.training import Descent, State
from nas_cli.weight_sharing import WeightSharingStrategy


class Enas(WeightSharingStrategy):
    """Each epoch trains the shared weights on sampled paths, then the controller on what paths score.

    The first `recipe.steps_per_epoch` steps of an epoch train the weights under `num_samples` paths each
    (the paper's M), their gradients averaged. The other `controller_steps` sample `controller_samples`
    paths each; the reward is the accuracy on one batch of the architecture's part, with that batch's own
    statistics. In the end `num_candidates` different samples are scored by the evaluator; the best is found.

    Deviations: candidates are scored by the evaluator, on all of the architecture's part (paper: one
    batch); advantages are in units of their own spread, which makes `entropy_weight` a number without a
    unit (paper: added to the accuracy, weighted by 0.1 for images, 1e-4 for text); two layers in the
    controller (paper: one); a head a choice (paper: one a kind of choice).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_samples: Count = 1,
        controller_steps: Count = 50,
        controller_samples: Count = 1,
        controller_learning_rate: Positive = 3.5e-4,
        baseline_decay: Share = 0.9,
        entropy_weight: NonNegative = 0.1,
        temperature: Positive = 5.0,
        tanh_constant: Positive | None = 2.5,
        num_candidates: Count = 10,
    ) -> None:
        super().__init__(problem)
        self.weight_steps = self.steps_per_epoch
        self.controller_steps = controller_steps
        self.steps_per_epoch = self.weight_steps + controller_steps
        self.images_per_step = problem.recipe.batch_size
        self.num_samples, self.path_weight = num_samples, 1 / num_samples
        self.controller_samples = controller_samples
        self.num_candidates = self.num_scored = num_candidates
        self.controller = Controller(
            problem.space.choices, problem.seed, temperature=temperature, tanh_constant=tanh_constant
        )
        self.policy = Reinforce(
            self.controller,
            learning_rate=controller_learning_rate,
            baseline_decay=baseline_decay,
            entropy_weight=entropy_weight,
        )

    def kinds_of_steps(self) -> list[tuple[str, int, int]]:
        return [
            ("step of the weights", 0, self.epochs * self.weight_steps),
            ("step of the controller", self.weight_steps, self.epochs * self.controller_steps),
        ]

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """Of the steps of one epoch: those of the weights, then those of the controller."""
        epoch = last // self.steps_per_epoch - 1
        position = first - epoch * self.steps_per_epoch
        weights_first = min(position, self.weight_steps)
        controller_first = position - weights_first
        weights, controller = epoch * self.weight_steps, epoch * self.controller_steps
        train = self.train_data.steps(weights + weights_first, weights + self.weight_steps)
        valid = self.valid_data.steps(controller + controller_first, controller + self.controller_steps)
        return ((batch,) for batch in chain(train, valid))

    def step(self, step: int, *batches: Batch) -> None:
        epoch, position = divmod(step, self.steps_per_epoch)
        batch = self.problem.trainer.arrange(batches[0])
        self.draws = stream(self.problem.seed, "paths", step)
        if position < self.weight_steps:
            self.descent.set_learning_rate(epoch * self.weight_steps + position)
            self.train_weights(batch, step)
        else:
            self.update_architecture(batch, batch, self.descent)

    def paths(self) -> list[list[Gate]]:
        picks = self.controller.sample(self.draws, self.num_samples)
        return [self.supernet.gates_of(architecture) for architecture in architectures_of(picks)]

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        picks = self.controller.sample(self.draws, self.controller_samples)
        self.policy.update(picks, self.rewards(picks, valid))

    @torch.no_grad()
    def rewards(self, picks: Tensor, batch: Batch) -> Tensor:
        """The share of the batch's images that each path gets right, (count,) on the CPU."""
        shares = []
        for architecture in architectures_of(picks):
            _, logits = self.validate(batch, self.supernet.gates_of(architecture))
            shares.append((logits.argmax(1) == batch.labels).float().mean())
        return ranks.average([torch.stack(shares)])[
            0
        ].cpu()  # the controller waits for the device here and nowhere else

    def derive(self, run: Run, evaluator: Evaluator) -> Architecture:
        return Candidates(self.problem, self.candidates()).search(run, evaluator).architecture

    def candidates(self) -> list[Architecture]:
        """The first different ones that the controller writes within the budget, `num_candidates` at most.

        One of the space where the controller finds none.
        """
        seed = self.problem.seed
        picks = self.controller.sample(stream(seed, "derive"), 10 * self.num_candidates)
        written = dict.fromkeys(map(self.problem.space.canonical, architectures_of(picks)))
        allowed = islice(filter(self.problem.allows, written), self.num_candidates)
        return list(allowed) or [self.problem.sample(random.Random(seed_for(seed, "derive")))]

    def current(self) -> Architecture:
        return self.controller.most_likely()

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> dict[str, Json]:
        sample = self.controller.sample(stream(self.problem.seed, "entropy", epoch), 100)
        _, entropies = self.controller.read(sample)
        return {**super().end_epoch(epoch), "controller_entropy": float(entropies.mean())}

    def architecture_state(self) -> State:
        return self.policy.state_dict()

    def load_architecture_state(self, state: State) -> None:
        self.policy.load_state_dict(state)


class Candidates(SamplingStrategy):
    """Scores the given architectures, one after the other."""

    def __init__(self, problem: Problem, architectures: list[Architecture]) -> None:
        super().__init__(problem, num_evaluations=len(architectures))
        self.remaining = iter(architectures)

    def propose(self) -> Proposal:
        return Proposal(next(self.remaining))
