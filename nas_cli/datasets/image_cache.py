"""Decoded images on the disk, so that a folder is decoded once, and images that are read from such a file."""

import hashlib
import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from torch import Tensor

from nas_cli.augmentation import onto
from nas_cli.data import Images

CPU = torch.device("cpu")
SUFFIX = ".images"
FORMAT = b"nasimg01"
FOOTER = struct.Struct("<8sQII16s")
"""Format, number of images, channels, pixels a side, digest of the index."""
ROW = np.dtype([("digest", "V16"), ("checksum", "<u4")])
CHECKED = 10_000
DAY = 24 * 60 * 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One file of the cache: `pixels` uint8 (N, C, S, S), mapped into memory, and the row of each image."""

    pixels: Tensor
    rows: dict[bytes, int]


class ImageCache:
    """A folder of decoded images, one file for each set of image files, number of channels and size.

    A file is named by the content of what was decoded: whoever changes, adds or renames images gets the
    right ones. It holds the pixels, then a row of digest and checksum for each image, then a footer; it
    appears whole or not at all, and never changes. Up to 10,000 images at even distances are
    held to their checksums when it is opened. At most `max_bytes` are used: what was unused for longest goes.
    """

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def file_of(self, digests: Iterable[bytes], channels: int, size: int) -> Path:
        """Where the images with these digests are, or would be; their order and repeats do not matter."""
        key = _digest(b"".join((FORMAT, PIL.__version__.encode(), *sorted(set(digests)))))
        return self.folder / f"{key.hex()}-{channels}x{size}x{size}{SUFFIX}"

    def open(self, file: Path) -> Decoded | None:
        """None where the file is missing or damaged."""
        try:
            decoded = _read(file)
            os.utime(file)  # used just now
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be used (%s): the images are decoded again.", file, error)
            return None
        log.info("%d decoded images are read from %s.", len(decoded.pixels), file)
        return decoded

    def write(self, file: Path, images: Iterable[tuple[bytes, Tensor]], num_bytes: int) -> Decoded | None:
        """Keep images (digest, pixels (C, S, S)) of at most so many bytes; None where the disk refuses."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(file, num_bytes)
            with _appearing_whole(file) as stream:
                _write(stream, images)
            decoded = _read(file)
        except OSError as error:
            reason = error.strerror or error
            log.warning("Decoded images cannot be kept in dataset.cache=%s (%s).", self.folder, reason)
            return None
        log.info("%d decoded images are kept in %s, for other commands too.", len(decoded.pixels), file)
        return decoded

    def _make_room(self, file: Path, num_bytes: int) -> None:
        file.unlink(missing_ok=True)
        kept = sorted((entry.stat().st_mtime, entry.stat().st_size, entry) for entry in self._entries())
        total = num_bytes + sum(size for _, size, _ in kept)
        for used, size, entry in kept:
            left_by_a_crash = entry.suffix == ".tmp" and used < time.time() - DAY
            if left_by_a_crash or (entry.suffix == SUFFIX and total > self.max_bytes):
                entry.unlink(missing_ok=True)
                total -= size
        if (free := shutil.disk_usage(self.folder).free) < num_bytes:
            raise OSError(f"{num_bytes / 1e9:.2g} GB are needed and {free / 1e9:.2g} GB are free")

    def _entries(self) -> Iterator[Path]:
        yield from self.folder.glob(f"*{SUFFIX}")
        yield from self.folder.glob(f".*{SUFFIX}.*.tmp")


@contextmanager
def _appearing_whole(file: Path) -> Iterator[BinaryIO]:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _write(stream: BinaryIO, images: Iterable[tuple[bytes, Tensor]]) -> None:
    rows: dict[bytes, int] = {}
    channels, size = 0, 0
    for digest, pixels in images:
        if digest not in rows:
            channels, size = pixels.shape[:2]
            data = pixels.numpy().tobytes()
            rows[digest] = zlib.crc32(data)
            stream.write(data)
    index = np.array(list(rows.items()), dtype=ROW).tobytes()
    stream.write(index)
    stream.write(FOOTER.pack(FORMAT, len(rows), channels, size, _digest(index)))


def _read(file: Path) -> Decoded:
    """Raises ValueError where it is not what was written."""
    length = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, length - FOOTER.size))
        form, count, channels, size, digest = _unpack(stream.read())
        end = count * channels * size**2
        if form != FORMAT or length != end + count * ROW.itemsize + FOOTER.size:
            raise ValueError("it is not whole")
        stream.seek(end)
        written = stream.read(count * ROW.itemsize)
    if _digest(written) != digest:
        raise ValueError("its index is damaged")
    index = np.frombuffer(written, ROW)
    # A private mapping: read-only use shares the pages with every process that reads the file.
    pixels = torch.from_file(str(file), shared=False, size=end, dtype=torch.uint8)
    pixels = pixels.view(count, channels, size, size)
    _check(pixels.numpy(), index["checksum"])
    return Decoded(pixels, {row.tobytes(): number for number, row in enumerate(index["digest"])})


def _unpack(footer: bytes) -> tuple[bytes, int, int, int, bytes]:
    if len(footer) != FOOTER.size:
        raise ValueError("it is not whole")
    form, count, channels, size, digest = FOOTER.unpack(footer)
    return form, count, channels, size, digest


def _check(pixels: np.ndarray, checksums: np.ndarray) -> None:
    stride = -(-len(pixels) // CHECKED)
    for row in range(0, len(pixels), max(1, stride)):
        if zlib.crc32(pixels[row]) != checksums[row]:
            raise ValueError(f"image {row} is damaged")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True, slots=True, eq=False)
class MappedImages:
    """A part in a file of the cache, of which the system keeps in memory what is read and there is room for.

    `pixels` uint8 (N, C, S, S) may hold other images too; `rows` int64 says which are this part's. `fits`:
    a GPU takes them whole. `labels` and `rows` stay on the CPU, what is read arrives on `device`.
    """

    pixels: Tensor
    rows: Tensor
    labels: Tensor
    fits: bool
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "MappedImages":
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "MappedImages | Images":
        if self.fits and torch.device(device).type != "cpu":
            return Images(self.pixels.index_select(0, self.rows), self.labels).to(device)
        return replace(self, device=torch.device(device))

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.pixels.index_select(0, self.rows[indices])
        return onto(pixels, self.device), onto(self.labels[indices], self.device)

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.read, batches)
