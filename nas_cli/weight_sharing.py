"""The strategies that train a supernet and what they know of its gates in turn, and their loop."""

import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor

from nas_cli import ranks
from nas_cli.architecture import Architecture, Json
from nas_cli.collapse import collapse_warning, gate_entropy, skip_shares, undecided_note
from nas_cli.data import Batch, Batches
from nas_cli.errors import UnsupportedError
from nas_cli.evaluator import Evaluator
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seed_for, seeded, stream
from nas_cli.strategy import Found, Problem, Strategy
from nas_cli.supernet import Gate, Supernet
from nas_cli.training import Descent, EpochWork, State, Tally, run_epochs


class WeightSharingStrategy(Strategy, EpochWork):
    """Trains a supernet's weights and the architecture in turn, then derives.

    For each step the loop asks `update_architecture` (which may do nothing) and then trains the weights
    under `paths`. Whatever is drawn at a step comes from `draws`, which depends on the step alone.
    `start_epoch` must depend on the epoch alone, as it is called again after a resume; what else the
    strategy learns is in `architecture_state`.
    """

    supernet: Supernet
    draws: torch.Generator
    num_scored = 1
    """How many architectures are scored with the trained weights to derive one."""
    path_weight = 1.0
    """What the gradient of each path is multiplied by before they are summed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        recipe, trainer, info = problem.recipe, problem.trainer, problem.data.info
        _refuse_without_effect(recipe)
        _refuse_recomputing(problem)
        with seeded(problem.seed, "supernet"):
            self.supernet = trainer.place(problem.space.build_supernet(problem.supernet))
        weights_part, architecture_part = problem.data.split(recipe.weights_share, problem.seed)
        augmentation, size = recipe.augmentation(info), recipe.batch_size
        self.train_data = Batches(
            weights_part, info, batch_size=size, seed=problem.seed, augmentation=augmentation
        )
        self.valid_data = Batches(
            architecture_part,
            info,
            batch_size=size,
            seed=seed_for(problem.seed, "architecture"),
            augmentation=augmentation,
        )
        self.epochs = recipe.epochs
        self.steps_per_epoch = recipe.steps_per_epoch or len(self.train_data)
        self.batch_size, self.images_per_step = size // ranks.size(), 2 * size
        self.descent = Descent(self.supernet.parameters(), recipe, self.epochs, self.steps_per_epoch)
        self.draws = stream(problem.seed, "paths", 0)
        self.train_tally, self.valid_tally = Tally(trainer.device), Tally(trainer.device)
        self.log, self.told = logging.getLogger(__name__), ""

    @abstractmethod
    def paths(self) -> list[list[Gate]]:
        """The gates to train the weights under; gradients are summed over them: one, or a sandwich."""

    @abstractmethod
    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        """Learn which gates are good; `train` is the batch that the weights are trained on next."""

    def derive(self, run: Run, evaluator: Evaluator) -> Architecture:
        """The architecture that the search ends with: what the gate weights point at within the budget.

        `evaluator` scores architectures with the trained weights, for strategies that search with them.
        """
        weights, affordable = self.gate_weights(), self.problem.affordable
        assert weights is not None, "a strategy without gate weights overrides derive"
        if note := undecided_note(gate_entropy(weights)):
            self.log.info(note)
        architecture = self.supernet.discretise(weights)
        if affordable is None or affordable.allows(architecture):
            return architecture
        return affordable.nearest(architecture, weights, self.supernet)

    def gate_weights(self) -> list[Tensor] | None:
        """The normalised weights of every gate as learned so far, without gradients; None where none are."""
        return None

    def current(self) -> Architecture | None:
        """What the search would end with now, for the record of each epoch; None where it cannot tell."""
        weights = self.gate_weights()
        return None if weights is None else self.supernet.discretise(weights)

    def validate(self, batch: Batch, gates: Sequence[Gate]) -> tuple[Tensor, Tensor]:
        """Loss and logits of a batch of the architecture's part under the gates, counted in the figures."""
        trainer = self.problem.trainer
        with trainer.autocast(), trainer.synchronised():
            logits = self.supernet(batch.images, gates)
            loss = self.loss(logits, batch.labels, batch.images)
        self.valid_tally.add(loss, logits, batch.labels)
        return loss, logits

    def architecture_state(self) -> State:
        return {}

    def load_architecture_state(self, state: State) -> None:
        """Take back what `architecture_state` gave."""

    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return self.problem.recipe.loss(logits, labels)

    def search(self, run: Run, evaluator: Evaluator) -> Found:
        self.log = run.log
        if self.gate_weights() is not None:
            run.write_json("gates.json", self._gate_names())
        run_epochs(self, run, "search")
        architecture = self.derive(run, evaluator)
        self._watch(architecture)
        return Found(architecture, evaluator.evaluate(architecture))

    def start_epoch(self, epoch: int) -> None:
        self.supernet.train()

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        return zip(self.train_data.steps(first, last), self.valid_data.steps(first, last), strict=True)

    def step(self, step: int, *batches: Batch) -> None:
        train, valid = (self.problem.trainer.arrange(batch) for batch in batches)
        self.draws = stream(self.problem.seed, "paths", step)
        self.descent.set_learning_rate(step)
        self.update_architecture(train, valid, self.descent)
        self.train_weights(train, step)

    def train_weights(self, batch: Batch, step: int) -> None:
        """One step of the weights under `paths`."""
        problem = self.problem
        mixed = problem.recipe.mix(batch, problem.data.info.num_classes, problem.seed, step)
        parts = zip(problem.recipe.parts(mixed), problem.recipe.parts(batch), strict=True)
        total_loss = torch.zeros((), device=problem.trainer.device)
        for (part, unmixed), gates in itertools.product(parts, self.paths()):
            with problem.trainer.autocast(), problem.trainer.synchronised():
                logits = self.supernet(part.images, gates)
                loss = self.loss(logits, part.labels, part.images)
            (self.path_weight / problem.recipe.accumulate * loss).backward()
            self.train_tally.add(loss, logits, unmixed.labels)
            total_loss += loss.detach()
        self.descent.step(total_loss, step)

    def check(self, step: int) -> None:
        self.descent.check(step, self.train_tally, self.valid_tally)

    def end_epoch(self, epoch: int) -> dict[str, Json]:
        ranks.copy_from_first(list(self.supernet.buffers()))
        figures = {**self.train_tally.figures("train"), **self.valid_tally.figures("valid")}
        device = self.problem.trainer.device
        self.train_tally, self.valid_tally = Tally(device), Tally(device)
        record: dict[str, Json] = {**figures, "learning_rate": self.descent.learning_rate}
        if (weights := self.gate_weights()) is not None:
            record["gate_entropy"] = gate_entropy(weights)
            record["gates"] = [[_rounded(row) for row in gate.tolist()] for gate in weights]
        if (architecture := self.current()) is None:
            return record
        shares = skip_shares(self.problem.space, architecture)
        self._watch(architecture)
        return {
            **record,
            **{f"skip_share_{cell}": share for cell, share in shares.items()},
            "choices": dict(self.problem.space.options_of(architecture)),
        }

    def _gate_names(self) -> dict[str, Json]:
        """What the `gates` of the metrics are of: a name for each row, and for each candidate of a gate."""
        return {
            "rows": [list(names) for names in self.supernet.row_names],
            "candidates": [list(names) for names in self.supernet.candidates],
        }

    def _watch(self, architecture: Architecture) -> None:
        """Tell the user of a collapse to skip connections."""
        if (warning := collapse_warning(self.problem.space, architecture)) and warning != self.told:
            self.log.warning(warning)
            self.told = warning

    def state_dict(self) -> State:
        return {
            "supernet": self.supernet.state_dict(),
            "supernet_options": asdict(self.problem.supernet),
            "optimizer": self.descent.optimizer.state_dict(),
            "train_tally": self.train_tally.state(),
            "valid_tally": self.valid_tally.state(),
            "architecture": self.architecture_state(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.supernet.load_state_dict(cast(dict[str, Tensor], state["supernet"]))
        self.descent.optimizer.load_state_dict(cast(State, state["optimizer"]))
        self.train_tally.load(cast(Tensor, state["train_tally"]))
        self.valid_tally.load(cast(Tensor, state["valid_tally"]))
        self.load_architecture_state(cast(State, state["architecture"]))


def _rounded(row: list[float]) -> list[Json]:
    """Four digits are enough for a picture, and keep the lines short."""
    return [round(weight, 4) for weight in row]


def _refuse_without_effect(recipe: Recipe) -> None:
    """A supernet has neither dropped paths nor an auxiliary head, and its weights are not averaged."""
    for name in ("drop_path", "auxiliary_weight", "average_decay"):
        if getattr(recipe, name):
            raise UnsupportedError(
                f"recipe.{name}={getattr(recipe, name)} has no effect on a search with shared weights. "
                f"Set recipe.{name}=0 for the search, and use it in `nas retrain`."
            )


def _refuse_recomputing(problem: Problem) -> None:
    if problem.trainer.sync_batch_norm and problem.supernet.checkpoint:
        raise UnsupportedError(
            "supernet.checkpoint=true does not go with trainer.sync_batch_norm=true: what is computed again "
            "in the backward pass would not wait for the other processes. Leave one of them out."
        )
