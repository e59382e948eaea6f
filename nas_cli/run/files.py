"""Files that survive a crash: whole files written atomically, and lines appended one at a time."""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nas_cli.architecture import Json
from nas_cli.errors import RunError, TrainingError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """After a crash at any moment the file has its old content or the new one, never a part of it.

    Raises TrainingError where the disk refuses.
    """
    with _whole_file(path, data) as temporary:
        os.replace(temporary, path)  # noqa: PTH105  the system call that the tests make fail


def keep_and_write(path: Path, kept: Path, data: bytes | memoryview) -> None:
    """As `write_atomically`, with the old content kept in `kept`, whose own is given up.

    A crash in between may leave the old content in `kept` alone.
    """
    with _whole_file(path, data) as temporary:
        if path.exists():
            path.replace(kept)
        os.replace(temporary, path)  # noqa: PTH105  the system call that the tests make fail


@contextmanager
def _whole_file(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """The data in a file beside `path` and on the disk, to be renamed; what is not renamed is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors_as_sentences(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors_as_sentences(path: Path) -> Iterator[None]:
    """Raises TrainingError where writing that file of a run folder fails."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written ({error.strerror or error}). What was saved before is kept; "
            f"once the disk takes it, continue with `--resume {path.parent}`."
        ) from error


def to_json(content: Json) -> str:
    """The text of a whole file, for people too; numbers that are not finite become null."""
    return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"


def to_json_line(record: Mapping[str, Json]) -> bytes:
    """One line of valid JSON: not-a-number and infinities, which JSON lacks, become null."""
    try:
        text = json.dumps(record, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(dict(record)), allow_nan=False)
    return text.encode() + b"\n"


def finite(value: Json) -> Json:
    """The value with null in place of every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class JsonLines:
    """A file of JSON records, one a line, appended and flushed line by line.

    A process that dies while it writes leaves at most a torn last line. It is dropped on reading and
    cut off before the next record is appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, record: Mapping[str, Json]) -> None:
        line = to_json_line(record)
        with disk_errors_as_sentences(self.path):
            if self._file is None:
                self._file = self._open()
            self._file.write(line)
            self._file.flush()

    def records(self) -> list[dict[str, Json]]:
        """All whole records. Raises RunError naming the line that is no JSON object."""
        return [self._parse(number, line) for number, line in enumerate(self._whole_lines(), start=1)]

    def count(self) -> int:
        """How many whole lines there are."""
        return len(self._whole_lines())

    def keep(self, count: int) -> None:
        """Keep the first `count` records: a resume takes back what its checkpoint does not know of."""
        lines = self._whole_lines()
        if count > len(lines):
            raise RunError(
                f"{self.path} holds {len(lines)} lines, but the checkpoint beside it was saved after "
                f"{count}. Restore the file from a copy, or start this run again in a new folder."
            )
        if count < len(lines):
            self.close()
            write_atomically(self.path, b"".join(lines[:count]))

    def sync(self) -> None:
        """Until here, lines survive a crash of the machine, not only of the process."""
        if self._file is not None:
            with disk_errors_as_sentences(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with disk_errors_as_sentences(self.path), file:
                os.fsync(file.fileno())

    def _open(self) -> BinaryIO:
        file = self.path.open("ab")
        file.truncate(sum(map(len, self._whole_lines())))
        return file

    def _whole_lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)

    def _parse(self, number: int, line: bytes) -> dict[str, Json]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise RunError(
                f"{self.path}, line {number} is no JSON object, so the file was damaged after it was "
                "written. Restore it from a copy, or start this run again in a new folder."
            )
        return record


class FolderLock:
    """One process works in a run folder at a time. The lock ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self, holder: Callable[[], str]) -> None:
        """Raises RunError where another process holds it, and says what `holder` finds out of that one."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RunError(
                f"Another process works in {self._folder} right now: {holder()}. "
                "Wait for it, or stop it first."
            ) from error
        except OSError:
            pass  # some network file systems have no locks; there it is the user's care
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
