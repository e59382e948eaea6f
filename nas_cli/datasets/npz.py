"""Images in one .npz file of numpy arrays: the layout of Keras and of MedMNIST (arXiv:2110.14795)."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from nas_cli.archives import BROKEN
from nas_cli.data import Dataset, ImageData, Images
from nas_cli.datasets.assembly import CHUNK, SIZES, assemble
from nas_cli.errors import DataError

Array = NDArray[np.generic]
Pair = tuple[str, str]

# The names of images and labels of the training, validation and test part.
LAYOUTS: tuple[tuple[Pair, Pair, Pair], ...] = (
    (("x_train", "y_train"), ("x_val", "y_val"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("val_images", "val_labels"), ("test_images", "test_labels")),
)
NEEDED = (
    "x_train, y_train, x_test, y_test, or as in MedMNIST train_images, train_labels, test_images, test_labels"
)


class Npz(Dataset):
    """The arrays of one file: uint8 images (N, height, width, channels) or (N, height, width), labels (N,).

    A validation part joins the training part, as a search splits its own; where there is no test part,
    the validation part is it. `class_names` (classes,) is optional. `size` shrinks the images to so many
    pixels by the mean of each pixel's area.
    """

    def __init__(
        self,
        *,
        path: str,
        size: Annotated[int, Field(ge=SIZES[0], le=SIZES[-1])] | None = None,
        limit: Annotated[int, Field(ge=2)] | None = None,
        mirror: bool = True,
    ) -> None:
        self.path = path
        self.size = size
        self.limit = limit
        self.mirror = mirror
        self._source = f"dataset.path={path}"

    def load(self) -> ImageData:
        arrays = self._read()
        train_pairs, test_pairs = self._parts(arrays)
        train_labels, test_labels = (self._labels(arrays, pairs) for pairs in (train_pairs, test_pairs))
        train_pixels, test_pixels = (self._pixels(arrays, pairs) for pairs in (train_pairs, test_pairs))
        class_names, values = self._classes(arrays, train_labels)
        return assemble(
            Images(train_pixels, self._numbers(train_labels, values)),
            Images(test_pixels, self._numbers(test_labels, values)),
            class_names=class_names,
            mirror=self.mirror,
            limit=self.limit,
            source=self._source,
        )

    def _read(self) -> Mapping[str, Array]:
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise DataError(f"{self._source}: there is no such file. Give an .npz file with {NEEDED}.")
        known = {name for layout in LAYOUTS for pair in layout for name in pair} | {"class_names"}
        try:
            with file.open("rb") as stream:  # numpy leaves a damaged one open
                archive = np.load(stream, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise DataError(f"{self._source} holds one array without a name. It needs {NEEDED}.")
                self._parts(archive.files)
                return {name: archive[name] for name in archive.files if name in known}
        except BROKEN as error:
            raise DataError(f"{self._source} is no readable .npz file of plain arrays: {error}") from error

    def _parts(self, names: Collection[str]) -> tuple[list[Pair], list[Pair]]:
        """The pairs of arrays that make the training and the test part."""
        for train, valid, test in LAYOUTS:
            if train[0] in names and train[1] in names:
                has_valid, has_test = (all(name in names for name in pair) for pair in (valid, test))
                if has_test:
                    return ([train, valid] if has_valid else [train]), [test]
                if has_valid:
                    return [train], [valid]
        found = ", ".join(sorted(names)) or "nothing"
        raise DataError(f"{self._source} holds {found}. It needs {NEEDED}.")

    def _pixels(self, arrays: Mapping[str, Array], pairs: Sequence[Pair]) -> Tensor:
        """uint8 (N, C, H, W)."""
        parts = [torch.from_numpy(self._as_bytes(name, arrays[name])) for name, _ in pairs]
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(f"{self._source}: {pairs[0][0]} and {pairs[1][0]} have images of two shapes.")
        channels_first = [self._shrunk(part.permute(0, 3, 1, 2).contiguous()) for part in parts]
        return torch.cat(channels_first) if len(parts) > 1 else channels_first[0]

    def _shrunk(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        if self.size is None or height != width or height == self.size:  # `assemble` refuses oblong images
            return pixels
        if self.size > height:
            raise DataError(
                f"{self._source}: dataset.size={self.size} is more than the images' {height} pixels. "
                "Lower it, or set it to null for their own size."
            )
        shrunk = [_areas(chunk, self.size) for chunk in pixels.split(CHUNK)]
        return torch.cat(shrunk)

    def _as_bytes(self, name: str, images: Array) -> NDArray[np.uint8]:
        if images.ndim not in (3, 4):
            raise DataError(
                f"{self._source}: {name} has the shape {images.shape}; images have "
                "(images, height, width, channels) or (images, height, width)."
            )
        if not np.issubdtype(images.dtype, np.integer):
            raise DataError(
                f"{self._source}: {name} holds {images.dtype} values; pixels are whole numbers, "
                "0 to 255 (uint8). Convert it, such as (255 * x).round().astype('uint8') for values 0 to 1."
            )
        if images.dtype != np.uint8 and images.size and (images.min() < 0 or images.max() > 255):
            raise DataError(
                f"{self._source}: {name} holds pixels from {images.min()} to {images.max()}; "
                "0 to 255 is allowed."
            )
        channelled = images if images.ndim == 4 else images[..., None]
        return channelled.astype(np.uint8, copy=False)

    def _labels(self, arrays: Mapping[str, Array], pairs: Sequence[Pair]) -> NDArray[np.int64]:
        return np.concatenate([self._part_labels(arrays, *pair) for pair in pairs])

    def _part_labels(self, arrays: Mapping[str, Array], images: str, name: str) -> NDArray[np.int64]:
        labels = arrays[name]
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"{self._source}: {name} has the shape {labels.shape} and holds {labels.dtype} values; "
                "one whole number an image is needed."
            )
        if len(labels) != len(arrays[images]):
            raise DataError(
                f"{self._source}: {images} has {len(arrays[images])} images and {name} {len(labels)} labels."
            )
        return labels.astype(np.int64)

    def _classes(
        self, arrays: Mapping[str, Array], train: NDArray[np.int64]
    ) -> tuple[list[str], NDArray[np.int64]]:
        """The names of the classes and the label of each; without names they are called by their labels."""
        if "class_names" not in arrays:
            values = np.unique(train)
            return [str(value) for value in values], values
        names = arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise DataError(f"{self._source}: class_names is no list of texts.")
        return names.astype(np.str_).tolist(), np.arange(len(names))

    def _numbers(self, labels: NDArray[np.int64], values: NDArray[np.int64]) -> Tensor:
        """Labels as class numbers 0, 1, ..."""
        if strange := np.setdiff1d(labels, values).tolist():
            raise DataError(
                f"{self._source}: the label {strange[0]} is of none of the {len(values)} classes "
                f"(labels {values[0]} to {values[-1]}). Every class needs training images."
            )
        return torch.from_numpy(np.searchsorted(values, labels).astype(np.int64))


def _areas(pixels: Tensor, size: int) -> Tensor:
    """Bytes whose value is the mean of the area that each stands for."""
    return F.interpolate(pixels.float(), size=(size, size), mode="area").round().to(torch.uint8)
