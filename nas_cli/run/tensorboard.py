"""The curves of a run for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nas_cli.architecture import Json
from nas_cli.run.files import disk_errors_as_sentences

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

FORMAT = "brain.Event:2"


class TensorBoard:
    """Writes the numbers of metric records; the folder is made with the first of them.

    In the process's own thread, for what a SummaryWriter has one of its own: where memory runs out as that
    starts, Python would wait for it for ever. What is written is on the disk when `add` returns.

    An earlier process may have logged epochs that a resume repeats: `hide_from` hides those.
    """

    def __init__(self, folder: Path) -> None:
        self._hidden_from: int | None = None
        self._folder = folder
        self._writer: RecordWriter | None = None

    def add(self, record: Mapping[str, Json]) -> None:
        numbers = {name: value for name, value in record.items() if type(value) in (int, float)}
        epoch = numbers.pop("epoch", None)
        if not isinstance(epoch, int):
            return
        values = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
        with disk_errors_as_sentences(self._folder):
            try:
                self._write(self._open(), step=epoch, summary={"value": values})
            except OSError:
                with suppress(OSError):  # told of once
                    self._close()
                raise

    def hide_from(self, epoch: int) -> None:
        """Call it before the first `add`."""
        self._hidden_from = epoch

    def close(self) -> None:
        with disk_errors_as_sentences(self._folder):
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _open(self) -> RecordWriter:
        if self._writer is None:
            from tensorboard.summary.writer.record_writer import RecordWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            now, host = time.time_ns(), socket.gethostname()
            name = f"events.out.tfevents.{now // 10**9:010d}.{host}.{os.getpid()}.{now % 10**9}"
            self._writer = RecordWriter((self._folder / name).open("xb"))
            self._write(self._writer, file_version=FORMAT)
            if self._hidden_from is not None:
                self._write(self._writer, step=self._hidden_from, session_log={"status": "START"})
        return self._writer

    @staticmethod
    def _write(writer: RecordWriter, **fields: object) -> None:
        # Importing it takes longer than many a command.
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

        writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        writer.flush()
