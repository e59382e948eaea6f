"""A signal asks a run to stop; the run stops where its state is whole."""

import signal
import threading
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Between `install` and `restore`, SIGINT and SIGTERM are noted instead of obeyed.

    `received` is the number of the first one. The second Ctrl-C raises KeyboardInterrupt at once, for a
    user who does not want to wait. Python takes handlers in the main thread only; in another one
    nothing is installed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: list[signal.Handlers | object] = []

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = [signal.signal(number, self._note) for number in HANDLED]

    def restore(self) -> None:
        for number, handler in zip(HANDLED, self._previous, strict=False):
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = []

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
