"""A signal asks a run to stop; the run stops where its state is whole."""

import signal
import threading
from types import FrameType


def handled() -> list[signal.Signals]:
    """What asks a run to stop: Ctrl-C, `kill`, and a terminal that is closed, but for a run under `nohup`."""
    hung_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


class StopSignals:
    """Between `install` and `restore`, SIGINT, SIGTERM and SIGHUP are noted instead of obeyed.

    `received` is the number of the first one. The second Ctrl-C raises KeyboardInterrupt at once, for a
    user who does not want to wait. Python takes handlers in the main thread only; in another one
    nothing is installed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, signal.Handlers | object] = {}

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in handled()}

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
