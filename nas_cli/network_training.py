"""Training one network in the loop of `training.py`, and how well it does."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from nas_cli import ranks
from nas_cli.architecture import Json
from nas_cli.data import NO_AUGMENTATION, Batch, Batches, ImageInfo, Part
from nas_cli.errors import UnsupportedError
from nas_cli.layers.drop_path import set_drop_path
from nas_cli.recipe import Recipe
from nas_cli.rehearsal import Piece
from nas_cli.seeds import stream
from nas_cli.trainer import Trainer
from nas_cli.training import Descent, EpochWork, State, Tally
from nas_cli.weight_average import average_of


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
        self.compute = trainer.compiled(self.network)
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
        self.batch_size, self.images_per_step = recipe.batch_size // ranks.size(), recipe.batch_size
        self.descent = Descent(network.parameters(), recipe, self.epochs, self.steps_per_epoch)
        self.average = average_of(network, recipe.average_decay) if recipe.average_decay else None
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
        total_loss = torch.zeros((), device=self.trainer.device)
        for part, labels in zip(self.recipe.parts(mixed), self.recipe.parts(batch), strict=True):
            with self.trainer.autocast(), self.trainer.synchronised():
                logits, loss = self._forward(part)
            (loss / self.recipe.accumulate).backward()
            self.tally.add(loss, logits, labels.labels)
            total_loss += loss.detach()
        self.descent.step(total_loss, step)
        if self.average:
            self.average.update_parameters(self.network)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and the loss with the auxiliary head's share in it."""
        output = self.compute(batch.images)
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

    def check(self, step: int) -> None:
        self.descent.check(step, self.tally)

    def end_epoch(self, epoch: int) -> dict[str, Json]:
        ranks.copy_from_first(list(self.network.buffers()))
        figures = self.tally.figures("train")
        self.tally = Tally(self.trainer.device)
        return {**figures, "learning_rate": self.descent.learning_rate}

    def state_dict(self) -> State:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "tally": self.tally.state(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.network.load_state_dict(cast(dict[str, Tensor], state["network"]))
        self.descent.optimizer.load_state_dict(cast(State, state["optimizer"]))
        if self.average:
            self.average.load_state_dict(cast(dict[str, Tensor], state["average"]))
        self.tally.load(cast(Tensor, state["tally"]))


def accuracy(network: nn.Module, part: Part, info: ImageInfo, trainer: Trainer, batch_size: int) -> float:
    """The share of a part's images that a network in evaluation mode gets right, in percent."""
    batches = _in_order(part, info, batch_size)
    network.eval()
    correct = torch.zeros((), device=trainer.device)
    with torch.inference_mode(), trainer.autocast():
        for plain in batches.steps(0, len(batches)):
            batch = trainer.arrange(plain)
            correct += (network(batch.images).argmax(1) == batch.labels).sum()
    return 100.0 * float(correct) / len(part)


def scoring(
    network: nn.Module, part: Part, info: ImageInfo, trainer: Trainer, batch_size: int, *, times: float = 1
) -> Piece:
    """One batch of what `accuracy` does, when that is done so many times."""
    batches = _in_order(part, info, batch_size)

    def do(num_images: int) -> None:
        batch = trainer.arrange(batches.batch(0))
        network.eval()
        with torch.inference_mode(), trainer.autocast():
            network(batch.images[:num_images])

    return Piece("scoring", times * len(batches), min(batch_size, len(part)), do)


def _in_order(part: Part, info: ImageInfo, batch_size: int) -> Batches:
    return Batches(
        part,
        info,
        batch_size=batch_size,
        seed=0,
        augmentation=NO_AUGMENTATION,
        shuffle=False,
        drop_last=False,
        whole=True,
    )
