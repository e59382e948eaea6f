"""How weights are trained: a recipe's settings, and what follows from them step by step."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from nas_cli.data import Augmentation, Batch, ImageInfo
from nas_cli.errors import ConfigError
from nas_cli.seeds import seeded

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=0)]


class Recipe:
    """SGD with a cosine schedule, augmentation and regularisation.

    An epoch is `steps_per_epoch` batches, or one pass over the images where that is None. A step computes
    its batch in `accumulate` equal parts, one after the other, and takes the mean of their gradients: the
    same step in less memory, but for batch statistics, which are of a part. `shift` (None: an eighth
    of the image size) and `cutout` are in pixels. `drop_path` grows linearly from zero over the
    training (arXiv:1707.07012); `auxiliary_weight` weighs the loss of the auxiliary head
    (arXiv:1806.09055, 0.4). `mixup` and `cutmix` are the alpha of their Beta distribution, zero for none;
    with both, each batch draws one of them. `average_decay` is the decay of an exponential average of
    the weights, zero for none. The learning rate falls along a cosine at every step (DARTS' code steps
    it once an epoch), after a linear rise over `warmup_epochs`. `weights_share` is the part of the
    training images that a search gives to the weights, the rest being the architecture's.
    """

    def __init__(
        self,
        *,
        epochs: Count = 30,
        steps_per_epoch: Count | None = None,
        batch_size: Annotated[int, Field(ge=2)] = 64,
        accumulate: Count = 1,
        weights_share: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        learning_rate: Positive = 0.025,
        final_learning_rate: NonNegative = 0.001,
        warmup_epochs: NonNegative = 0.0,
        momentum: Share = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegative = 3e-4,
        gradient_clip: NonNegative = 5.0,
        label_smoothing: Share = 0.0,
        shift: Pixels | None = None,
        mirror: bool = True,
        cutout: Pixels = 0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        drop_path: Share = 0.0,
        auxiliary_weight: NonNegative = 0.0,
        average_decay: Share = 0.0,
    ) -> None:
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.weights_share = weights_share
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.warmup_epochs = warmup_epochs
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.label_smoothing = label_smoothing
        self.shift = shift
        self.mirror = mirror
        self.cutout = cutout
        self.mixup = mixup
        self.cutmix = cutmix
        self.drop_path = drop_path
        self.auxiliary_weight = auxiliary_weight
        self.average_decay = average_decay
        self._check()

    def _check(self) -> None:
        if self.final_learning_rate > self.learning_rate:
            raise ConfigError(
                f"recipe.final_learning_rate={self.final_learning_rate} is above "
                f"recipe.learning_rate={self.learning_rate}, but the schedule only falls. Lower it."
            )
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ConfigError(
                f"recipe.accumulate={self.accumulate}: recipe.batch_size={self.batch_size} has not that many "
                "equal parts of two images or more. Set it to a divisor of the batch size."
            )
        if self.nesterov and self.momentum == 0:
            raise ConfigError("recipe.nesterov=true needs recipe.momentum above 0.")

    def check_ranks(self, num_ranks: int) -> None:
        """Raise ConfigError where a batch has not that many equal parts."""
        parts = num_ranks * self.accumulate
        if num_ranks > 1 and (self.batch_size % parts or self.batch_size < 2 * parts):
            raise ConfigError(
                f"recipe.batch_size={self.batch_size} is shared by the {num_ranks} processes of "
                f"trainer.devices and trainer.nodes, in recipe.accumulate={self.accumulate} parts each. Set "
                f"recipe.batch_size to a multiple of {parts}, at least {2 * parts}."
            )

    def augmentation(self, info: ImageInfo) -> Augmentation:
        """What training images go through; images are mirrored only where that keeps their class."""
        shift = info.size // 8 if self.shift is None else self.shift
        return Augmentation(shift=shift, mirror=self.mirror and info.mirror, cutout=self.cutout)

    def learning_rate_at(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        """The learning rate of one step of `num_steps`."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1.0, num_steps - warmup)
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * fall

    def mix(self, batch: Batch, num_classes: int, seed: int, step: int) -> Batch:
        """MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899): labels become rows of class shares."""
        if not self.mixup and not self.cutmix:
            return batch
        from torchvision.transforms import v2  # 3 seconds to import

        transforms: list[v2.Transform] = []
        if self.mixup:
            transforms.append(v2.MixUp(alpha=self.mixup, num_classes=num_classes))
        if self.cutmix:
            transforms.append(v2.CutMix(alpha=self.cutmix, num_classes=num_classes))
        with seeded(seed, "mix", step):
            return Batch(*v2.RandomChoice(transforms)(batch.images, batch.labels))

    def parts(self, batch: Batch) -> list[Batch]:
        """The `accumulate` equal parts of a batch."""
        split = (tensor.chunk(self.accumulate) for tensor in batch)
        return [Batch(images, labels) for images, labels in zip(*split, strict=True)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of logits (images, classes) with labels (images,) or shares (images, classes)."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
