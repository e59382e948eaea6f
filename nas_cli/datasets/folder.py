"""Images in folders, one folder a class."""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from nas_cli.data import Dataset, ImageData, Images, Part, stratified
from nas_cli.datasets.assembly import assemble, limited
from nas_cli.datasets.image_cache import Decoded, ImageCache, MappedImages
from nas_cli.datasets.image_files import (
    REMEDY,
    Header,
    StreamedImages,
    attempt_each,
    decode,
    images_in,
    is_image,
    read_digest,
    read_header,
)
from nas_cli.errors import ConfigError, DataError
from nas_cli.progress import Progress
from nas_cli.seeds import stream

Result = TypeVar("Result")

VALIDATION = ("val", "valid", "validation")
SMALLEST, LARGEST = 8, 224
MEASURED_OF_A_STREAM = 4096
IMAGES_A_LINE = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """Image files and their classes."""

    paths: tuple[Path, ...]
    labels: Tensor

    def select(self, indices: Tensor) -> "Files":
        return Files(tuple(self.paths[index] for index in indices.tolist()), self.labels[indices])

    def __add__(self, other: "Files") -> "Files":
        return Files(self.paths + other.paths, torch.cat((self.labels, other.labels)))


class Folder(Dataset):
    """One folder a class, or such folders within `train`, `val` and `test`.

    Without a `test` folder `val` is the test part, without both so much of the images as `test_fraction`
    says; with both, `val` joins the training part, as a search splits its own. Channels (1 grey, 3, 4
    where all images have transparency), size, mean and std are found by looking.

    Images are decoded once and kept, decoded, in the folder `cache`, of which at most `cache_gb` are used.
    Those that need more than `memory_gb` stay there, and where the cache cannot hold them they are decoded
    again each time they are read; their mean and std are those of 4,096.
    """

    def __init__(
        self,
        *,
        path: str,
        size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)] | None = None,
        limit: Annotated[int, Field(ge=2)] | None = None,
        mirror: bool = True,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        skip_unreadable: bool = False,
        memory_gb: Annotated[float, Field(ge=0)] = 4.0,
        cache: str = "~/.cache/nas/images",
        cache_gb: Annotated[float, Field(ge=0)] = 20.0,
        num_workers: Annotated[int, Field(ge=0)] = 2,
    ) -> None:
        self.path = path
        self.size = size
        self.limit = limit
        self.mirror = mirror
        self.test_fraction = test_fraction
        self.skip_unreadable = skip_unreadable
        self.memory_gb = memory_gb
        self.cache = cache
        self.cache_gb = cache_gb
        self.num_workers = num_workers
        self._source = f"dataset.path={path}"

    def load(self) -> ImageData:
        class_names, train, test = self._find()
        (train, headers), (test, _) = self._look(train), self._look(test)
        if self.limit is not None:
            train = train.select(limited(train.labels, class_names, self.limit, self._source))
        channels, size = _channels(headers), self.size or _size(headers)
        read, in_memory = self._reader(train + test, channels, size)
        return assemble(
            read(train),
            read(test),
            class_names=class_names,
            mirror=self.mirror,
            limit=None,
            source=self._source,
            measured=None if in_memory else MEASURED_OF_A_STREAM,
        )

    def _reader(self, files: Files, channels: int, size: int) -> tuple[Callable[[Files], Part], bool]:
        """What makes a part of some of these files, and whether the pixels of all fit into memory."""
        num_gb = len(files.paths) * channels * size**2 / 1e9
        fits = num_gb <= self.memory_gb
        if num_gb <= self.cache_gb and (kept := self._kept(files, channels, size)) is not None:
            return partial(self._mapped, *kept, fits), fits
        if fits:
            return partial(self._decoded, channels=channels, size=size), fits
        log.info(
            "The images need %.2g GB, more than dataset.memory_gb=%g: they are decoded again each time they "
            "are read.",
            num_gb,
            self.memory_gb,
        )
        return partial(self._streamed, channels=channels, size=size), fits

    def _kept(self, files: Files, channels: int, size: int) -> tuple[Decoded, Mapping[Path, bytes]] | None:
        """The images in the cache, decoded into it where they are not there, and the digest of each file."""
        cache = ImageCache(self._cache_folder(), self.cache_gb * 1e9)
        digests = {files.paths[index]: digest for index, digest in self._readable(read_digest, files)}
        place = cache.file_of(digests.values(), channels, size)
        if (decoded := cache.open(place)) is not None:
            torn = [index for index, path in enumerate(files.paths) if digests.get(path) not in decoded.rows]
            list(self._decode(files.select(_indices(torn)), channels, size))  # tells of them again
            return decoded, digests
        images = ((digests[files.paths[k]], image) for k, image in self._decode(files, channels, size))
        decoded = cache.write(place, images, len(files.paths) * channels * size**2)
        return None if decoded is None else (decoded, digests)

    def _cache_folder(self) -> Path:
        folder = Path(self.cache).expanduser()
        if folder.resolve().is_relative_to(Path(self.path).expanduser().resolve()):
            raise ConfigError(
                f"dataset.cache={self.cache} lies within {self._source}, which holds images alone. Give a "
                "folder outside of it, or set dataset.cache_gb=0 for no cache."
            )
        return folder

    def _find(self) -> tuple[list[str], Files, Files]:
        """The names of the classes, the training and the test files."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{self._source}: there is no such folder. Give the folder that holds one folder a class."
            )
        class_names = _class_names(root / "train")
        if class_names:
            return class_names, *self._given_parts(root, class_names)
        class_names = _class_names(root)
        self._check_class_names(root, class_names)
        return class_names, *self._parts_of(self._list(root, class_names))

    def _given_parts(self, root: Path, class_names: Sequence[str]) -> tuple[Files, Files]:
        self._check_class_names(root / "train", class_names)
        train = self._list(root / "train", class_names)
        valid = next((root / name for name in VALIDATION if _class_names(root / name)), None)
        test = root / "test"
        if _class_names(test):
            joined = train if valid is None else train + self._list(valid, class_names)
            return joined, self._list(test, class_names)
        if valid is not None:
            return train, self._list(valid, class_names)
        return self._parts_of(train)

    def _parts_of(self, files: Files) -> tuple[Files, Files]:
        """A test part of `test_fraction` of the files, the same for every run."""
        num_test = round(self.test_fraction * len(files.paths))
        test, train = stratified(files.labels, num_test, stream(0, "test"), leave=1)
        return files.select(train), files.select(test)

    def _check_class_names(self, root: Path, class_names: Sequence[str]) -> None:
        if len(class_names) == 1:
            raise DataError(f"{self._source}: there is one class, {class_names[0]!r}; at least 2 are needed.")
        if not class_names:
            num_images = sum(1 for path in root.iterdir() if is_image(path))
            raise DataError(
                f"{self._source} holds {num_images} images and no class folders with images in them. "
                "Put the images of each class into a folder of its own, named after the class."
            )

    def _list(self, root: Path, class_names: Sequence[str]) -> Files:
        if unknown := sorted(set(_class_names(root)) - set(class_names)):
            raise DataError(
                f"{self._source}: {root} has the class {unknown[0]!r}, which has no training images. "
                f"The classes are {', '.join(class_names)}."
            )
        found = [(path, label) for label, name in enumerate(class_names) for path in images_in(root / name)]
        return Files(tuple(path for path, _ in found), _indices([label for _, label in found]))

    def _look(self, files: Files) -> tuple[Files, list[Header]]:
        """The headers of the readable files."""
        looked = list(self._readable(read_header, files))
        if not looked:
            raise DataError(f"{self._source}: none of the {len(files.paths)} images is readable.")
        return files.select(_indices([index for index, _ in looked])), [header for _, header in looked]

    def _readable(self, work: Callable[[Path], Result], files: Files) -> Iterator[tuple[int, Result]]:
        """Index and result of each file that can be read."""
        for index, result in enumerate(attempt_each(work, files.paths, self.num_workers)):
            if not isinstance(result, DataError):
                yield index, result
            elif self.skip_unreadable:
                log.warning("Going on without %s, which is no readable image.", files.paths[index])
            else:
                raise DataError(f"{result} {REMEDY}")

    def _decode(self, files: Files, channels: int, size: int) -> Iterator[tuple[int, Tensor]]:
        """Index and pixels of each file that can be read; tells how far it is."""
        work, total = partial(decode, channels=channels, size=size), len(files.paths)
        with Progress("decoding", total, unit="image") as progress:
            for index, image in self._readable(work, files):
                if total >= IMAGES_A_LINE and index % IMAGES_A_LINE == 0:
                    progress.update(index)
                progress.move(index + 1)
                yield index, image

    def _mapped(self, decoded: Decoded, digests: Mapping[Path, bytes], fits: bool, files: Files) -> Part:
        found = [(index, decoded.rows.get(digests.get(path, b""))) for index, path in enumerate(files.paths)]
        readable = [(index, row) for index, row in found if row is not None]
        labels = files.labels[_indices([index for index, _ in readable])]
        return MappedImages(decoded.pixels, _indices([row for _, row in readable]), labels, fits)

    def _decoded(self, files: Files, channels: int, size: int) -> Part:
        pixels = torch.empty(len(files.paths), channels, size, size, dtype=torch.uint8)
        readable = []
        for index, image in self._decode(files, channels, size):
            pixels[index] = image
            readable.append(index)
        images = Images(pixels, files.labels)
        return images if len(readable) == len(images) else images.select(_indices(readable))

    def _streamed(self, files: Files, channels: int, size: int) -> Part:
        """With `skip_unreadable`, all are decoded once: a file cannot be left out later."""
        if self.skip_unreadable:
            files = files.select(_indices([index for index, _ in self._decode(files, channels, size)]))
        return StreamedImages(files.paths, files.labels, channels, size, self.num_workers)


def _indices(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)  # an empty list would make floats


def _class_names(root: Path) -> list[str]:
    """The folders in `root` that hold images, at any depth."""
    if not root.is_dir():
        return []
    return sorted(
        folder.name
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and any(map(is_image, folder.rglob("*")))
    )


def _channels(headers: Sequence[Header]) -> int:
    if all(header.channels == 4 for header in headers):
        return 4
    return 3 if any(header.has_colour for header in headers) else 1


def _size(headers: Sequence[Header]) -> int:
    median = statistics.median(header.shorter_side for header in headers)
    return max(SMALLEST, min(LARGEST, round(median)))
