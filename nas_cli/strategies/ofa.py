"""Once-for-All: one training for many sub-networks, and a search among them (arXiv:1908.09791)."""

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nas_cli.architecture import Architecture, Json
from nas_cli.data import Batch
from nas_cli.evaluator import Evaluator
from nas_cli.recipe import Count, NonNegative
from nas_cli.run import Run
from nas_cli.shrinking import Phase, Shrinking
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategies.predicted_evolution import PredictedEvolution
from nas_cli.strategies.scored_front import CostName, FrontOfHistory
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate, Supernet
from nas_cli.training import Descent, State
from nas_cli.weight_sharing import WeightSharingStrategy

PHASES = (
    Phase(opens=(), share=0.3),
    Phase(opens=("kernel",), share=0.2, learning_rate=0.4),
    Phase(opens=("depth",), share=0.25, num_paths=2, learning_rate=0.1),
    Phase(opens=("width",), share=0.25, num_paths=4, learning_rate=0.1),
)


class Ofa(WeightSharingStrategy):
    """Progressive shrinking (section 3.3): the largest network, then also smaller kernels, depths and widths.

    In each phase a step trains `num_paths` sub-networks, drawn uniformly among what is open; their gradients
    are summed. From the second phase on the network of the first one, frozen, teaches: the soft cross entropy
    with its predictions is added, times `distillation_weight`. Before widths are opened, or opened further,
    channels are sorted by importance. Every phase is a training of its own: the recipe's schedule runs anew,
    without the momentum of the phase before.

    A choice without an order, such as an operation, is drawn from the start, at each step the same for all
    its sub-networks and their teacher. Phases that open nothing of the space are left out, and the others
    share their time.

    Of all sub-networks that were scored, the front of score and `front_cost` is left in front.json (see
    FrontOfHistory).

    Deviations: the images keep their size, where the paper draws it; by default depths and widths are opened
    at once, where the paper does it in two phases each (name them twice for that).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = PHASES,
        distillation_weight: NonNegative = 1.0,
        predictor_samples: Count = 100,
        num_predictions: Count = 1000,
        num_finalists: Count = 10,
        population_size: Annotated[int, Field(ge=2)] = 100,
        tournament_size: Count = 10,
        front_cost: CostName | None = None,
    ) -> None:
        super().__init__(replace(problem, supernet=replace(problem.supernet, form="elastic")))
        self.front = FrontOfHistory(problem, front_cost)
        self.distillation_weight = distillation_weight
        self.shrinking = Shrinking(
            phases,
            problem.space.choices,
            self.descent.num_steps,
            with_teacher=distillation_weight > 0,
        )
        self.descent = PhasedDescent(self.descent, self.shrinking)
        self.images_per_step = problem.recipe.batch_size
        self.num_scored = predictor_samples + num_finalists
        self.phase = 0
        self.teacher: Supernet | None = None
        self.teaching_gates: list[Gate] = []
        self.taught: tuple[Tensor, Tensor] | None = None
        evolution = Evolution(
            problem,
            num_evaluations=num_predictions,
            population_size=population_size,
            tournament_size=tournament_size,
        )
        self.among_trained = PredictedEvolution(
            problem, evolution, predictor_samples=predictor_samples, num_finalists=num_finalists
        )

    def kinds_of_steps(self) -> list[tuple[str, int, int]]:
        phases = range(len(self.shrinking.phases))
        return [(f"step of phase {phase + 1}", *self.shrinking.steps_of(phase)) for phase in phases]

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, Batch]]:
        """The architecture's part waits for the search."""
        return ((batch, batch) for batch in self.train_data.steps(first, last))

    def step(self, step: int, *batches: Batch) -> None:
        self.phase = self.shrinking.phase_at(step)
        if step in self.shrinking.first_steps[1:]:
            self._begin_phase()
        super().step(step, *batches)

    def _begin_phase(self) -> None:
        """Before a phase's first step, so once: a run that is resumed goes on after a whole step."""
        if self.phase == 1 and self.distillation_weight:
            self.teacher = self._copy_of_supernet()
        if "width" in self.shrinking.phases[self.phase].opens:
            self.supernet.sort_channels(self._narrowest())
        self.descent.forget()

    def _narrowest(self) -> int | None:
        """The smallest width trained so far; None where only the largest was."""
        width = self.problem.space.choices[self.shrinking.kinds.index("width")]
        num_open = self.shrinking.num_open("width", len(width.options), self.phase - 1)
        return cast(int, width.options[-num_open]) if num_open > 1 else None

    def _copy_of_supernet(self) -> Supernet:
        """It teaches with the statistics of each batch, as the authors' does."""
        return deepcopy(self.supernet).requires_grad_(False).train()

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        """Nothing is learned of architectures before all are trained."""

    def paths(self) -> list[list[Gate]]:
        largest, drawn = self.shrinking.draw(self.phase, random.Random(self.draws.initial_seed()))
        self.teaching_gates, self.taught = self.supernet.gates_of(largest), None
        return [self.supernet.gates_of(architecture) for architecture in drawn]

    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        loss = super().loss(logits, labels, images)
        if self.teacher is None:
            return loss
        if self.taught is None or self.taught[0] is not images:  # all sub-networks see the same images
            with torch.no_grad():
                self.taught = images, self.teacher(images, self.teaching_gates).softmax(1)
        return loss + self.distillation_weight * F.cross_entropy(logits, self.taught[1])

    def end_epoch(self, epoch: int) -> dict[str, Json]:
        last_step = (epoch + 1) * self.steps_per_epoch - 1
        return {**super().end_epoch(epoch), "phase": self.shrinking.phase_at(last_step) + 1}

    def derive(self, run: Run, evaluator: Evaluator) -> Architecture:
        found = self.among_trained.search(run, evaluator).architecture
        self.front.write(run)
        return found

    def architecture_state(self) -> State:
        return {"teacher": self.teacher.state_dict() if self.teacher else None}

    def load_architecture_state(self, state: State) -> None:
        if state["teacher"] is not None:
            self.teacher = self._copy_of_supernet()
            self.teacher.load_state_dict(cast(dict[str, Tensor], state["teacher"]))


class PhasedDescent(Descent):
    """The schedule of the recipe runs once in every phase, times the phase's own factor."""

    def __init__(self, whole: Descent, shrinking: Shrinking) -> None:
        num_epochs = whole.num_steps // whole.steps_per_epoch
        super().__init__(whole.parameters, whole.recipe, num_epochs, whole.steps_per_epoch)
        self.shrinking = shrinking

    def set_learning_rate(self, step: int) -> None:
        phase = self.shrinking.phase_at(step)
        first, num_steps = self.shrinking.steps_of(phase)
        rate = self.recipe.learning_rate_at(step - first, self.steps_per_epoch, num_steps)
        self.optimizer.param_groups[0]["lr"] = rate * self.shrinking.phases[phase].learning_rate
