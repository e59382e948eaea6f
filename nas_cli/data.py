"""Images in memory or streamed from files, what is known of them, and the batches that training reads."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from nas_cli import ranks
from nas_cli.augmentation import NO_AUGMENTATION, Augmentation, onto
from nas_cli.errors import ConfigError, DataError
from nas_cli.seeds import stream

__all__ = [
    "NO_AUGMENTATION",
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "ImageData",
    "ImageInfo",
    "Images",
    "Part",
    "stratified",
]


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a network and a recipe need to know of the images.

    `size` is height and width in pixels. `mean` and `std` are one a channel, of the training part's
    pixels scaled to 0..1. `mirror`: a mirrored image keeps its class.
    """

    channels: int
    size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_json(self) -> dict[str, object]:
        """Plain values only, lists for tuples: what JSON and `torch.load(weights_only=True)` read back."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @staticmethod
    def from_json(content: Mapping[str, object]) -> "ImageInfo":
        """Read what `to_json` wrote. Raises DataError naming the entry that is missing or wrong."""
        try:
            return TypeAdapter(ImageInfo).validate_python(dict(content))
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(place) for place in first["loc"])
            raise DataError(
                f"The description of the images is wrong at {entry!r}: {first['msg']}."
            ) from error


class Part(Protocol):
    """One part of a data set: the training images, the test images, or a selection of either.

    Indices are int64 tensors on the CPU. What is read is uint8 pixels (B, C, S, S) and int64 labels (B,)
    on the part's device.
    """

    @property
    def labels(self) -> Tensor:
        """int64 (N,)."""

    @property
    def device(self) -> torch.device:
        """Where what is read arrives."""

    def __len__(self) -> int: ...

    def select(self, indices: Tensor) -> Self:
        """The part that has these images, in this order."""

    def to(self, device: torch.device | str) -> "Part":
        """The same images, read onto the device."""

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and labels of one batch."""

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`read` of each batch in turn, for streamed images some batches ahead in worker processes."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """A part in memory, on the CPU or whole on a GPU: `pixels` uint8 (N, C, S, S), `labels` int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __deepcopy__(self, memo: object) -> "Images":
        """Nobody writes to them."""
        return self

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Images":
        return Images(*self.read(indices))

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        here = onto(indices, self.device)
        # index_select copies whole images: 20 times as fast as `pixels[here]` on a CPU.
        return self.pixels.index_select(0, here), self.labels.index_select(0, here)

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.read, batches)


@dataclass(frozen=True, slots=True, eq=False)
class ImageData:
    """A data set. `test` is not looked at before the end: `split` makes a validation part from `train`."""

    info: ImageInfo
    train: Part
    test: Part

    def split(self, fraction: float, seed: int) -> tuple[Part, Part]:
        """Two disjoint parts of the training images: `fraction` of them, and the rest.

        Both have the classes' proportions and every class. Raises DataError naming a class that has
        fewer than two training images.
        """
        labels = self.train.labels.cpu()
        counts = torch.bincount(labels, minlength=self.info.num_classes)
        for name, count in zip(self.info.class_names, counts.tolist(), strict=True):
            if count < 2:
                raise DataError(
                    f"The class {name!r} has {count} training image{'s' * (count != 1)}; a split needs "
                    "at least 2 of each class. Add images, raise dataset.limit, or leave the class out."
                )
        total = round(fraction * len(labels))
        first, rest = stratified(labels, total, stream(seed, "split"), leave=1)
        return self.train.select(first), self.train.select(rest)

    def to(self, device: torch.device | str) -> "ImageData":
        return ImageData(self.info, self.train.to(device), self.test.to(device))


class Dataset(ABC):
    """Where images come from: one class a source, constructed with the settings of its YAML alone."""

    @abstractmethod
    def load(self) -> ImageData:
        """Read and check everything; the same settings give the same images in the same order.

        Raises DataError, naming the file or folder and the remedy.
        """

    def describe(self) -> ImageInfo:
        """What is known of the images, for a network that is built and not trained."""
        return self.load().info


def stratified(
    labels: Tensor, total: int, generator: torch.Generator, *, leave: int = 0
) -> tuple[Tensor, Tensor]:
    """Indices, ascending, of `total` random images in the classes' proportions, and of the rest.

    At least one of each class is taken and `leave` of each are not, also where `total` asks otherwise.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    takes = _apportion(counts.numpy(), total, leave)
    is_taken = torch.zeros(len(labels), dtype=torch.bool)
    for images, take in zip(by_class.split(counts.tolist()), takes, strict=True):
        is_taken[images[:take]] = True
    return torch.nonzero(is_taken).squeeze(1), torch.nonzero(~is_taken).squeeze(1)


def _apportion(counts: np.ndarray, total: int, leave: int) -> list[int]:
    """Whole numbers that sum to `total` and are nearest to the proportions, within the bounds."""
    least, most = np.minimum(counts, 1), np.maximum(counts - leave, np.minimum(counts, 1))
    total = int(np.clip(total, least.sum(), most.sum()))
    quota = counts * (total / counts.sum())
    takes = np.clip(np.floor(quota).astype(int), least, most)
    while takes.sum() < total:
        takes[np.argmax(np.where(takes < most, quota - takes, -np.inf))] += 1
    while takes.sum() > total:
        takes[np.argmin(np.where(takes > least, quota - takes, np.inf))] -= 1
    return [int(take) for take in takes]


class Batch(NamedTuple):
    """`images` float32 (B, C, S, S), normalised; `labels` int64 (B,); both on the part's device."""

    images: Tensor
    labels: Tensor


class Batches:
    """The batches of a part, one a step, without end: an epoch is `len` steps.

    A batch depends on the seed and the step alone, so that a resumed run goes on from its step
    number, bit for bit. Random numbers are drawn on the CPU and copied to the device: they are the same
    on every device.

    Training drops the incomplete last batch of an epoch, and `ConfigError` says so where not even one is
    complete. `shuffle=False, drop_last=False` reads every image once, in order.

    Where several ranks train together, `steps` gives each of them its own part of a batch, all of one size;
    with `whole` it gives all of it.
    """

    def __init__(
        self,
        images: Part,
        info: ImageInfo,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        shuffle: bool = True,
        drop_last: bool = True,
        whole: bool = False,
    ) -> None:
        if drop_last and batch_size > len(images):
            raise ConfigError(
                f"recipe.batch_size={batch_size} is larger than the {len(images)} images to train on: "
                f"set recipe.batch_size to at most {len(images)}, or give more images (dataset.limit)."
            )
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation
        self._shuffle = shuffle
        self._length = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        share = batch_size // ranks.size()
        self._mine = slice(None) if whole else slice(ranks.rank() * share, (ranks.rank() + 1) * share)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (info.mean, info.std))
        self._scale = (1 / (255 * std)).to(images.device)
        self._offset = (-mean / std).to(images.device)

    def __len__(self) -> int:
        return self._length

    def batch(self, step: int) -> Batch:
        """The whole batch of a step, on every rank."""
        return self._finish(step, slice(None), *self._images.read(self._indices(step)))

    def steps(self, first: int, last: int) -> Iterator[Batch]:
        """The batches first..last-1; streamed images are decoded ahead."""
        steps = range(first, last)
        reads = self._images.read_ahead(self._indices(step)[self._mine] for step in steps)
        for step, (pixels, labels) in zip(steps, reads, strict=True):
            yield self._finish(step, self._mine, pixels, labels)

    def _indices(self, step: int) -> Tensor:
        epoch, position = divmod(step, self._length)
        start = position * self._batch_size
        return self._order_of(epoch)[start : start + self._batch_size]

    def _order_of(self, epoch: int) -> Tensor:
        """The permutation of an epoch; the last one used is kept."""
        if not self._shuffle:
            epoch = 0
        if self._order[0] != epoch:
            num_images = len(self._images)
            shuffled = stream(self._seed, "order", epoch)
            order = (
                torch.randperm(num_images, generator=shuffled) if self._shuffle else torch.arange(num_images)
            )
            self._order = (epoch, order)
        return self._order[1]

    def _finish(self, step: int, part: slice, pixels: Tensor, labels: Tensor) -> Batch:
        generator, num_images = stream(self._seed, "augment", step), len(self._indices(step))
        draws = self._augmentation.draw(num_images, pixels.shape[-1], generator)[:, part]
        return Batch(self._augmentation.apply(pixels, self._scale, self._offset, draws), labels)
