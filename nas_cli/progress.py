"""What a command shows while it works, and the table it closes with."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as LiveDisplay
from rich.table import Column
from rich.text import Text

PACE_UNITS = 20


class Output(Console):
    """A console whose reader may go away: what is written is then written for nobody, and the work goes on.

    Rich would end the program: `nas search | head` would end a search of days.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


class Progress:
    """How far a loop is, on stderr: one live line on a terminal, else a plain line for each finished unit.

    Figures appear in the order given, underscores as spaces. The time left comes from the pace of the last
    units, so that a resumed run does not count what an earlier process did. Without a total there is none.
    Where units may be done in no time, `interval` is the least number of seconds between two updates.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        unit: str = "epoch",
        interval: float = 0.0,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._interval = interval
        self._next = 0.0
        self._console = console or Output(stderr=True)
        self._last = -1
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_UNITS)
        self._start = time.monotonic()
        self._display = self._live_display() if self._console.is_terminal else None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self._display is not None:
            self._task = self._display.add_task(self._title, total=self._total, unit=self._unit, figures="")
            with self._while_there_is_a_reader():
                self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            with self._while_there_is_a_reader():
                self._display.stop()

    def update(self, completed: int, **figures: float | str) -> None:
        """Show that many units as done. Without a terminal, a count that was shown before is not repeated."""
        if completed != self._total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        text = "  ".join(f"{name.replace('_', ' ')} {_format(value)}" for name, value in figures.items())
        with self._while_there_is_a_reader():
            self._show(completed, text, self._time_left(completed))

    def _show(self, completed: int, text: str, left: str) -> None:
        if self._display is not None:
            self._display.update(self._task, completed=completed, figures=_join(text, left))
        elif completed > self._last:
            self._last = completed
            count = f"{completed}" if self._total is None else f"{completed}/{self._total}"
            line = _join(f"{self._title}: {self._unit} {count}", text, left)
            self._console.print(Text(line), soft_wrap=True)

    def move(self, completed: float) -> None:
        """Move a terminal's bar within a unit; plain lines wait for the unit to be done."""
        if self._display is not None:
            with self._while_there_is_a_reader():
                self._display.update(self._task, completed=completed)

    @contextmanager
    def _while_there_is_a_reader(self) -> Iterator[None]:
        """A terminal that was closed takes nothing more; the work goes on until it is told to stop."""
        try:
            yield
        except OSError:
            self._console.quiet = True
            self._display = None

    def _time_left(self, completed: int) -> str:
        if not self._pace:
            self._pace.append((self._start, max(completed - 1, 0)))
        now = time.monotonic()
        start, first = self._pace[0]
        self._pace.append((now, completed))
        if self._total is None or completed <= first:
            return ""
        return f"{duration((now - start) / (completed - first) * (self._total - completed))} left"

    def _live_display(self) -> LiveDisplay:
        return LiveDisplay(
            TextColumn("{task.description}: {task.fields[unit]}", markup=False),
            MofNCompleteColumn(),
            BarColumn(bar_width=10),
            # The one column that a narrow terminal may fold: no figure is cut off.
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=False)),
            console=self._console,
        )


def print_table(title: str, rows: Mapping[str, str], console: Console | None = None) -> None:
    """The closing table, on stdout: every value whole on its line, coloured on a terminal only."""
    console = console or Output()
    width = max(map(len, rows), default=0)
    console.print(Text(title, style="bold"), soft_wrap=True)
    for name, value in rows.items():
        console.print(Text.assemble(("  " + name.ljust(width), "cyan"), "  ", value), soft_wrap=True)


def duration(seconds: float) -> str:
    """Two units are enough: `45s`, `3m 20s`, `2h 05m`, `4d 03h`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}h"
    if hours:
        return f"{hours}h {minute:02}m"
    return f"{minutes}m {second:02}s" if minutes else f"{second}s"


def _format(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _join(*parts: str) -> str:
    return "  ".join(part for part in parts if part)
