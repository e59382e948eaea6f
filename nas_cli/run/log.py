"""The log of a run: each line once in its file and once on the terminal."""

import logging
import sys
from pathlib import Path


class RunLog:
    """While it is open, the logger `nas_cli` writes to the file (debug and up) and to stderr (info and up).

    The logger does not propagate meanwhile: Hydra gives the root logger a console and the same file,
    and every line would come twice. A run inside a run leaves the terminal to the outer one.
    """

    def __init__(self, path: Path) -> None:
        self.logger = logging.getLogger("nas_cli")
        self._path = path
        self._handlers: list[logging.Handler] = []
        self._before = (self.logger.level, self.logger.propagate)

    def open(self) -> None:
        file = logging.FileHandler(self._path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handlers = [file]
        if not any(isinstance(handler, _Terminal) for handler in self.logger.handlers):
            self._handlers.append(_Terminal(logging.INFO))
        for handler in self._handlers:
            self.logger.addHandler(handler)
        self._before = (self.logger.level, self.logger.propagate)
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False

    def close(self) -> None:
        for handler in self._handlers:
            self.logger.removeHandler(handler)
            handler.close()
        self._handlers = []
        level, self.logger.propagate = self._before
        self.logger.setLevel(level)


class _Terminal(logging.Handler):
    """Asks for stderr anew with each line, so that a line goes above a live progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        try:
            sys.stderr.write(f"{mark}{self.format(record)}\n")
        except OSError:
            self.handleError(record)
