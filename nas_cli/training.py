"""The one loop that trains weights, resumable after any step."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from nas_cli import ranks
from nas_cli.architecture import Json
from nas_cli.data import Batch
from nas_cli.errors import DivergedError
from nas_cli.optimizers import SGD
from nas_cli.progress import Progress
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.run.environment import peak_memory_mb

State = dict[str, object]

SHOWN = ("train_loss", "train_accuracy", "valid_accuracy", "images_per_second")
"""The figures of an epoch that the terminal shows; the rest is in metrics.jsonl."""


class Tally:
    """Loss and accuracy summed up on the device, read once an epoch; then of all ranks together."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        count = torch.full((), float(len(labels)), device=loss.device)  # a copy from the host would wait
        correct = (logits.detach().argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach().float() * count, correct.float(), count])

    def figures(self, prefix: str) -> dict[str, float]:
        """Mean loss, and accuracy in percent; nothing where nothing was added."""
        loss, correct, count = ranks.total(self.sums).tolist()
        if not count:
            return {}
        return {f"{prefix}_loss": loss / count, f"{prefix}_accuracy": 100.0 * correct / count}

    def state(self) -> Tensor:
        """For a checkpoint: the sums of every rank (ranks, 3)."""
        return ranks.gather(self.sums)

    def load(self, sums: Tensor) -> None:
        """Go on from the `state` of a checkpoint, which comes on the CPU."""
        self.sums.copy_(sums.view(-1, 3)[ranks.rank()])


def mean_of(gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
    """The mean of each tensor over several lists of them, and over all ranks."""
    if len(gradients) == 1:
        return ranks.average(gradients[0])
    return ranks.average([torch.stack(list(each)).mean(0) for each in zip(*gradients, strict=True)])


class Descent:
    """SGD on some parameters under a recipe's schedule; a loss that is not finite stops it.

    Gradients are averaged over all ranks here and in `mean_of`, not by torch's DistributedDataParallel: that
    hooks into one backward pass of one module, where a search has several passes a step under other gates,
    differentiates with respect to the gates alone, and leaves out the weights of paths that did not run.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe, epochs: int, steps_per_epoch: int):
        recipe.check_ranks(ranks.size())
        self.parameters = list(parameters)
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = epochs * steps_per_epoch
        self.optimizer = SGD(
            self.parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,  # the same numbers, without operations for each of a supernet's thousand tensors
        )
        self.forget()

    def forget(self) -> None:
        """No momentum, as at the start. Fused steps need it on all, and a sampled path brings some late."""
        if self.recipe.momentum:
            for parameter in self.parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def set_learning_rate(self, step: int) -> None:
        rate = self.recipe.learning_rate_at(step, self.steps_per_epoch, self.num_steps)
        self.optimizer.param_groups[0]["lr"] = rate

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor, step: int) -> None:
        """Apply the gradients that `loss` left on the parameters, and clear them."""
        if loss.device.type == "cpu" and not torch.isfinite(loss):  # elsewhere `check` has to do
            raise self.diverged(f"The loss of step {step} is {loss.item()}")
        self._average_gradients()
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _average_gradients(self) -> None:
        """Over all ranks, which have them on the same parameters: they ran the same paths."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for gradient, mean in zip(gradients, ranks.average(gradients), strict=True):
            gradient.copy_(mean)

    def check(self, step: int, *tallies: Tally) -> None:
        """Raise DivergedError unless the epoch's losses and all weights are finite. Waits for the device."""
        sums = [tensor.detach().float().sum() for tensor in self.parameters]
        sums += [tally.sums[0] for tally in tallies]
        if not torch.isfinite(torch.stack(sums)).all():
            raise self.diverged(f"A loss or a weight is no longer finite before step {step}")

    def diverged(self, what: str) -> DivergedError:
        """`what`: the sentence that says which number is no longer finite, up to its full stop."""
        return DivergedError(
            f"{what} at learning rate {self.learning_rate:.4g}. "
            f"Lower recipe.learning_rate (now {self.recipe.learning_rate:g}) or set "
            f"recipe.gradient_clip (now {self.recipe.gradient_clip:g}); what was saved before is kept."
        )


class EpochWork(ABC):
    """Work that goes step by step and epoch by epoch, and goes on from its state after any step.

    `run_epochs` calls `start_epoch` (again after a resume in the middle of an epoch), then `step` for
    each step with the batches of that step, then `end_epoch`; `check` before anything is saved.
    """

    epochs: int
    steps_per_epoch: int
    images_per_step: int
    batch_size: int
    finished = False
    """Set by `end_epoch` (and kept in the state) where no further epoch is wanted."""

    def kinds_of_steps(self) -> list[tuple[str, int, int]]:
        """Steps that take the same time: what they are called, the first of them, and how many there are.

        As many as there are follow the first one, unless the epoch ends before.
        """
        return [("step", 0, self.epochs * self.steps_per_epoch)]

    @abstractmethod
    def start_epoch(self, epoch: int) -> None: ...

    @abstractmethod
    def batches(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """What each of the steps `first` to `last - 1` works on."""

    @abstractmethod
    def step(self, step: int, *batches: Batch) -> None: ...

    @abstractmethod
    def check(self, step: int) -> None:
        """Raise TrainingError where the state before that step is not worth a checkpoint."""

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
        while epoch < work.epochs and not work.finished:
            started, first = time.perf_counter(), step
            work.start_epoch(epoch)
            for batches in work.batches(first, (epoch + 1) * work.steps_per_epoch):
                work.step(step, *batches)
                step += 1
                if progress:
                    progress.move(step / work.steps_per_epoch)
                if run and _is_stop_agreed(run):
                    work.check(step)
                    _save(work, run, epoch, step)
                    run.raise_if_stopped()
            work.check(step)
            figures = work.end_epoch(epoch)
            epoch += 1
            ranks.check_same(figures, f"the end of epoch {epoch}")
            if run:
                figures |= _pace(work, time.perf_counter() - started, step - first)
                run.append_metrics({"epoch": epoch, **figures})
                _save(work, run, epoch, step)
            if progress:
                shown = {name: figures[name] for name in SHOWN if name in figures}
                progress.update(epoch, **cast(dict[str, float], shown))


def _is_stop_agreed(run: Run) -> bool:
    """Whether a rank was asked to stop: then all stop after the same step."""
    signal = ranks.greatest(run.signal_received or 0)
    if signal:
        run.stop(signal)
    return signal > 0


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
        run.keep_history(0)  # scores of weights that are trained anew
        return 0, 0
    work.load_state_dict(cast(State, saved["work"]))
    epoch = cast(int, saved["epoch"])
    run.keep_metrics(epoch)
    return epoch, cast(int, saved["step"])
