"""Where the figures of a run go besides its folder: a server or a service that gathers those of many runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_cli.architecture import Json


class Tracker(ABC):
    """Constructed as `Tracker(*, settings)`; the run calls `start`, `log` any number of times, `finish`.

    Whatever it raises after its construction becomes a warning, and the run goes on without it.
    """

    @abstractmethod
    def start(self, folder: Path, command: str, config: Mapping[str, Json], known: str | None) -> str:
        """Begin, or go on with what `known` names; the result is what a resumed run gives as `known`."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """The figures of an epoch, or of an evaluation."""

    @abstractmethod
    def finish(self, status: str, files: Sequence[Path]) -> None:
        """`status` is done, interrupted or failed; `files` are what the run found."""


def flatten(node: object, prefix: str = "") -> dict[str, str]:
    """{"recipe.epochs": "5"} of nested settings."""
    if isinstance(node, dict) and node:
        flat: dict[str, str] = {}
        for key, value in node.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    spelled = str(node).lower() if isinstance(node, bool) else str(node)
    return {prefix: "null" if node is None else spelled}
