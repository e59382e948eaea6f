"""The one loop that trains weights, resumable after any step, and the training of one network in it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas_cli.architecture import Json
from nas_cli.data import NO_AUGMENTATION, Batch, Batches, ImageInfo, Part
from nas_cli.errors import TrainingError, UnsupportedError
from nas_cli.layers.drop_path import set_drop_path
from nas_cli.progress import Progress
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.run.environment import peak_memory_mb
from nas_cli.seeds import stream
from nas_cli.trainer import Trainer

State = dict[str, object]

SHOWN = ("train_loss", "train_accuracy", "valid_accuracy", "images_per_second")
"""The figures of an epoch that the terminal shows; the rest is in metrics.jsonl."""


class Tally:
    """Loss and accuracy summed up on the device, read once an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        count = torch.tensor(float(len(labels)), device=loss.device)
        correct = (logits.detach().argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach().float() * count, correct.float(), count])

    def figures(self, prefix: str) -> dict[str, float]:
        """Mean loss, and accuracy in percent; nothing where nothing was added."""
        loss, correct, count = self.sums.tolist()
        if not count:
            return {}
        return {f"{prefix}_loss": loss / count, f"{prefix}_accuracy": 100.0 * correct / count}


class Descent:
    """SGD on some parameters under a recipe's schedule; a loss that is not finite stops it."""

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe, epochs: int, steps_per_epoch: int):
        self.parameters = list(parameters)
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = epochs * steps_per_epoch
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )

    def set_learning_rate(self, step: int) -> None:
        rate = self.recipe.learning_rate_at(step, self.steps_per_epoch, self.num_steps)
        self.optimizer.param_groups[0]["lr"] = rate

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor, step: int) -> None:
        """Apply the gradients that `loss` left on the parameters, and clear them."""
        if loss.device.type == "cpu":  # elsewhere the check would wait for the device; see `run_epochs`
            self.check(loss, step)
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss of step {step} is {loss.item()} at learning rate {self.learning_rate:.4g}. "
                f"Lower recipe.learning_rate (now {self.recipe.learning_rate:g}) or set "
                f"recipe.gradient_clip (now {self.recipe.gradient_clip:g}); the last checkpoint is kept."
            )


class EpochWork(ABC):
    """Work that goes step by step and epoch by epoch, and goes on from its state after any step.

    `run_epochs` calls `start_epoch` (again after a resume in the middle of an epoch), then `step` for
    each step with the batches of that step, then `end_epoch`.
    """

    epochs: int
    steps_per_epoch: int
    images_per_step: int

    @abstractmethod
    def start_epoch(self, epoch: int) -> None: ...

    @abstractmethod
    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """What each of the steps `first` to `last - 1` works on."""

    @abstractmethod
    def step(self, step: int, *batches: Batch) -> None: ...

    @abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, Json]:
        """The figures of the epoch for `metrics.jsonl`."""

    @abstractmethod
    def state_dict(self) -> dict[str, object]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


def run_epochs(work: EpochWork, run: Run | None = None, title: str = "") -> None:
    """Do all epochs of a work; with a run, save after each, stop on a signal and go on where it was."""
    epoch, step = _restore(work, run) if run else (0, 0)
    with Progress(title, work.epochs) if run else nullcontext() as progress:
        while epoch < work.epochs:
            started, first = time.perf_counter(), step
            work.start_epoch(epoch)
            for batches in work.batches(first, (epoch + 1) * work.steps_per_epoch):
                work.step(step, *batches)
                step += 1
                if progress:
                    progress.move(step / work.steps_per_epoch)
                if run and run.stop_requested:
                    _save(work, run, epoch, step)
                    run.raise_if_stopped()
            figures = work.end_epoch(epoch)
            epoch += 1
            if run:
                figures |= _pace(work, time.perf_counter() - started, step - first)
                run.append_metrics({"epoch": epoch, **figures})
                _save(work, run, epoch, step)
            if progress:
                shown = {name: figures[name] for name in SHOWN if name in figures}
                progress.update(epoch, **cast(dict[str, float], shown))


def _pace(work: EpochWork, seconds: float, num_steps: int) -> dict[str, Json]:
    return {
        "seconds": seconds,
        "images_per_second": num_steps * work.images_per_step / seconds,
        "memory_mb": peak_memory_mb(),
    }


def _save(work: EpochWork, run: Run, epoch: int, step: int) -> None:
    run.save_checkpoint({"epoch": epoch, "step": step, "work": work.state_dict()})


def _restore(work: EpochWork, run: Run) -> tuple[int, int]:
    """The epoch and the step to go on with; lines of epochs after the checkpoint are done again."""
    saved = run.load_checkpoint() if run.resumed else None
    if saved is None:
        run.keep_metrics(0)
        return 0, 0
    work.load_state_dict(cast(State, saved["work"]))
    epoch = cast(int, saved["epoch"])
    run.keep_metrics(epoch)
    return epoch, cast(int, saved["step"])


class NetworkTraining(EpochWork):
    """Training one network on one part of the images, as `retrain` and the evaluators do it."""

    def __init__(
        self,
        network: nn.Module,
        part: Part,
        info: ImageInfo,
        *,
        recipe: Recipe,
        trainer: Trainer,
        seed: int,
    ) -> None:
        self.network = trainer.place(network)
        self.info, self.recipe, self.trainer, self.seed = info, recipe, trainer, seed
        self.data = Batches(
            part,
            info,
            batch_size=recipe.batch_size,
            seed=seed,
            augmentation=recipe.augmentation(info),
        )
        self.epochs = recipe.epochs
        self.steps_per_epoch = recipe.steps_per_epoch or len(self.data)
        self.images_per_step = recipe.batch_size
        self.descent = Descent(network.parameters(), recipe, self.epochs, self.steps_per_epoch)
        self.average = _average(network, recipe.average_decay) if recipe.average_decay else None
        self.tally = Tally(trainer.device)
        self._set_drop_path(0)

    @property
    def trained(self) -> nn.Module:
        """The network to be used: the average of the weights where the recipe asks for it."""
        return self.average.module if self.average else self.network

    def start_epoch(self, epoch: int) -> None:
        self.network.train()

    def batches(self, first: int, last: int) -> Iterator[tuple[Batch]]:
        return ((batch,) for batch in self.data.steps(first, last))

    def step(self, step: int, *batches: Batch) -> None:
        batch = self.trainer.arrange(batches[0])
        mixed = self.recipe.mix(batch, self.info.num_classes, self.seed, step)
        self._set_drop_path(step)
        self.descent.set_learning_rate(step)
        with self.trainer.autocast():
            logits, loss = self._forward(mixed)
        loss.backward()
        self.descent.step(loss, step)
        if self.average:
            self.average.update_parameters(self.network)
        self.tally.add(loss, logits, batch.labels)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and the loss with the auxiliary head's share in it."""
        output = self.network(batch.images)
        if not self.recipe.auxiliary_weight:
            return output, self.recipe.loss(output, batch.labels)
        logits, auxiliary_logits = output
        auxiliary_loss = self.recipe.loss(auxiliary_logits, batch.labels)
        loss = self.recipe.loss(logits, batch.labels) + self.recipe.auxiliary_weight * auxiliary_loss
        return logits, loss

    def _set_drop_path(self, step: int) -> None:
        if not self.recipe.drop_path:
            return
        rate = self.recipe.drop_path * step / self.descent.num_steps
        generator = stream(self.seed, "drop path", step, device=self.trainer.device)
        if set_drop_path(self.network, rate, generator) == 0:
            raise UnsupportedError(
                f"recipe.drop_path={self.recipe.drop_path}: this network has no paths to drop. Set it to 0."
            )

    def end_epoch(self, epoch: int) -> dict[str, Json]:
        figures = self.tally.figures("train")
        self.tally = Tally(self.trainer.device)
        return {**figures, "learning_rate": self.descent.learning_rate}

    def state_dict(self) -> State:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "tally": self.tally.sums,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.network.load_state_dict(cast(dict[str, Tensor], state["network"]))
        self.descent.optimizer.load_state_dict(cast(State, state["optimizer"]))
        if self.average:
            self.average.load_state_dict(cast(dict[str, Tensor], state["average"]))
        self.tally.sums = cast(Tensor, state["tally"]).to(self.trainer.device)


def _average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential average whose decay rises to `decay`, so that the first weights are soon forgotten."""

    def update(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():  # batch norm counts its batches in integers
            return current
        weight = torch.as_tensor((1 + num_averaged) / (10 + num_averaged)).clamp(max=decay).to(averaged)
        return torch.lerp(current, averaged, weight)

    return AveragedModel(network, avg_fn=update, use_buffers=True)


def accuracy(network: nn.Module, part: Part, info: ImageInfo, trainer: Trainer, batch_size: int) -> float:
    """The share of a part's images that a network in evaluation mode gets right, in percent."""
    batches = Batches(
        part,
        info,
        batch_size=batch_size,
        seed=0,
        augmentation=NO_AUGMENTATION,
        shuffle=False,
        drop_last=False,
    )
    network.eval()
    correct = torch.zeros((), device=trainer.device)
    with torch.inference_mode(), trainer.autocast():
        for plain in batches.steps(0, len(batches)):
            batch = trainer.arrange(plain)
            correct += (network(batch.images).argmax(1) == batch.labels).sum()
    return 100.0 * float(correct) / len(part)
