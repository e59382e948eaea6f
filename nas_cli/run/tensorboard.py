"""The curves of a run for TensorBoard."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nas_cli.architecture import Json
from nas_cli.run.files import disk_errors_as_sentences

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes the numbers of metric records; the folder is made with the first of them.

    An earlier process may have logged epochs that a resume repeats: `hide_from` hides those.
    """

    def __init__(self, folder: Path) -> None:
        self._hidden_from: int | None = None
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def add(self, record: Mapping[str, Json]) -> None:
        numbers = {name: value for name, value in record.items() if type(value) in (int, float)}
        epoch = numbers.pop("epoch", None)
        if not isinstance(epoch, int):
            return
        with disk_errors_as_sentences(self._folder):
            writer = self._open()
            for name, value in numbers.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

    def hide_from(self, epoch: int) -> None:
        """Call it before the first `add`."""
        self._hidden_from = epoch

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with disk_errors_as_sentences(self._folder):
                writer.close()

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            # Importing it takes longer than many a command.
            from torch.utils.tensorboard import SummaryWriter

            _tell_its_errors_once()
            self._writer = SummaryWriter(str(self._folder), purge_step=self._hidden_from)
        return self._writer


@functools.cache
def _tell_its_errors_once() -> None:
    """`add` and `close` raise what could not be written; TensorBoard's thread is not to print it as well."""
    tell = threading.excepthook

    def tell_of_others(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            tell(failed)

    threading.excepthook = tell_of_others
