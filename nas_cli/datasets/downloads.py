"""Well-known data sets, read and on demand downloaded by torchvision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torchvision import datasets

from nas_cli.data import Dataset, ImageData, ImageInfo, Images
from nas_cli.datasets.assembly import assemble
from nas_cli.errors import DataError

SHAPES = {
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "fashion_mnist": (1, 28, 10),
    "svhn": (3, 32, 10),
}
"""Channels, pixels a side, classes."""


class Download(Dataset):
    """CIFAR-10 and -100, Fashion-MNIST (28 x 28, one channel) or SVHN, kept in the folder `root`."""

    def __init__(
        self,
        *,
        name: Literal["cifar10", "cifar100", "fashion_mnist", "svhn"],
        root: str = "~/.cache/nas",
        download: bool = False,
        limit: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self.download = download
        self.limit = limit

    def load(self) -> ImageData:
        class_names, train, test = self._read()
        return assemble(
            train,
            test,
            class_names=class_names,
            mirror=self.name != "svhn",
            limit=self.limit,
            source=f"dataset={self.name}",
        )

    def describe(self) -> ImageInfo:
        """Known without the files, but for the class names, the mean and the deviation of the pixels."""
        channels, size, num_classes = SHAPES[self.name]
        return ImageInfo(
            channels=channels,
            size=size,
            class_names=tuple(str(label) for label in range(num_classes)),
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            mirror=self.name != "svhn",
        )

    def _read(self) -> tuple[Sequence[str], Images, Images]:
        root = Path(self.root).expanduser()
        try:
            return self._open(root)
        except (OSError, RuntimeError) as error:  # of urllib, of torchvision, of a full disk
            raise DataError(self._failure(root, error)) from error

    def _open(self, root: Path) -> tuple[Sequence[str], Images, Images]:
        if self.name == "svhn":
            train, test = (
                datasets.SVHN(root, split=part, download=self.download) for part in ("train", "test")
            )
            return "0123456789", _images(train.data, train.labels), _images(test.data, test.labels)
        kind = {
            "cifar10": datasets.CIFAR10,
            "cifar100": datasets.CIFAR100,
            "fashion_mnist": datasets.FashionMNIST,
        }[self.name]
        train, test = (kind(root, train=part, download=self.download) for part in (True, False))
        train_pixels, test_pixels = _channels_first(train.data), _channels_first(test.data)
        return train.classes, _images(train_pixels, train.targets), _images(test_pixels, test.targets)

    def _failure(self, root: Path, error: Exception) -> str:
        by_file = "or give the images as a file with dataset=npz dataset.path=..."
        if self.download:
            return f"dataset={self.name}: downloading to {root} failed ({error}). Try again later, {by_file}"
        return (
            f"dataset={self.name}: the files are not in {root}, and nothing is downloaded unasked. "
            f"Add dataset.download=true, set dataset.root to the folder that has them, {by_file}"
        )


def _channels_first(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(N, H, W, C) or (N, H, W) to (N, C, H, W)."""
    images = torch.as_tensor(pixels)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)


def _images(pixels: np.ndarray | torch.Tensor, labels: list[int] | np.ndarray | torch.Tensor) -> Images:
    return Images(torch.as_tensor(pixels).contiguous(), torch.as_tensor(labels, dtype=torch.int64))
