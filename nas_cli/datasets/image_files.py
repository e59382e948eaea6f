"""Image files: what their headers say, their pixels, and a part that is read from them batch by batch."""

import hashlib
import multiprocessing
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from nas_cli.augmentation import onto
from nas_cli.errors import DataError

Result = TypeVar("Result")

CPU = torch.device("cpu")
AT_A_TIME = 512
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
REMEDY = "Repair or remove it, or set dataset.skip_unreadable=true to go on without it."
"""What to do about an image of a data set that cannot be read."""
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its image before its pixels are decoded."""

    has_colour: bool
    has_alpha: bool
    shorter_side: int

    @property
    def channels(self) -> int:
        """1 grey, 3 in colour, 4 with transparency."""
        return 4 if self.has_alpha else 3 if self.has_colour else 1


def is_image(path: Path) -> bool:
    """By its name alone."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_in(folder: Path) -> list[Path]:
    """At any depth, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if is_image(path))


def read_header(path: Path) -> Header:
    """Raises DataError naming the file."""
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
            return Header(not grey, image.has_transparency_data, min(image.size))
    except BROKEN as error:
        raise _unreadable(path, error) from error


def read_digest(path: Path) -> bytes:
    """16 bytes that tell the file's content from any other. Raises DataError naming the file."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise _unreadable(path, error) from error


def decode(path: Path, channels: int, size: int) -> Tensor:
    """The image as uint8 (channels, size, size): the shorter side resized to `size`, then centre cropped.

    Photos are turned upright as their camera noted. Raises DataError naming the file.
    """
    try:
        with Image.open(path) as image:
            image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size
            upright = _in_eight_bits(ImageOps.exif_transpose(image))
            # Through RGBA, as a palette with transparency has no way straight to grey or RGB.
            opaque = upright.convert("RGBA") if upright.has_transparency_data else upright
            pixels: Tensor = _fit(size)(opaque.convert(MODES[channels]))
            return pixels
    except BROKEN as error:
        raise _unreadable(path, error) from error


def attempt_each(
    work: Callable[[Path], Result], paths: Sequence[Path], num_threads: int
) -> Iterator[Result | DataError]:
    """The work on each file in order, done in threads; for an unreadable file its error."""

    def attempt(path: Path) -> Result | DataError:
        try:
            return work(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max(1, num_threads)) as threads:
        for start in range(0, len(paths), AT_A_TIME):  # or results that wait would fill the memory
            yield from threads.map(attempt, paths[start : start + AT_A_TIME])


def _fit(size: int) -> v2.Compose:
    return v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size), v2.PILToTensor()])


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey off at 255 where it converts; its high byte is meant."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = "no known image format" if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{path} is no readable image ({reason}).")


@dataclass(frozen=True, slots=True, eq=False)
class StreamedImages:
    """A part too large for memory: files, decoded as they are read, by `num_workers` processes.

    Workers decode and nothing else, so that their number changes no result. `labels` stay on the CPU;
    batches arrive on `device`.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    channels: int
    size: int
    num_workers: int
    device: torch.device = CPU

    def __deepcopy__(self, memo: object) -> "StreamedImages":
        """Nobody writes to them."""
        return self

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "StreamedImages":
        paths = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "StreamedImages":
        return replace(self, device=torch.device(device))

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._place(_Decoder(self)[indices])

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.num_workers == 0:
            return map(self.read, batches)
        loader = DataLoader(
            _Decoder(self),
            batch_size=None,  # one index of the sampler is a whole batch
            sampler=batches,
            num_workers=self.num_workers,
            multiprocessing_context=_start_method(),
            worker_init_fn=_leave_interrupts_to_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or it draws from the global one
        )
        return map(self._place, loader)

    def _place(self, decoded: tuple[Tensor, Tensor] | DataError) -> tuple[Tensor, Tensor]:
        if isinstance(decoded, DataError):
            raise DataError(f"{decoded} {REMEDY}")
        pixels, labels = (onto(tensor, self.device) for tensor in decoded)
        return pixels, labels


class _Decoder(torch.utils.data.Dataset[tuple[Tensor, Tensor] | DataError]):
    """What worker processes hold. They return an error, as torch would drown its message in a traceback."""

    def __init__(self, images: StreamedImages) -> None:
        self.images = images

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor] | DataError:
        images = self.images
        try:
            pixels = [decode(images.paths[k], images.channels, images.size) for k in indices.tolist()]
        except DataError as error:
            return error
        return torch.stack(pixels), images.labels[indices]


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the parent finishes its step and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_method() -> multiprocessing.context.BaseContext:
    """Workers must not fork this process, which has threads and perhaps a GPU's context.

    The fork server imports torch once; its workers start in milliseconds.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
