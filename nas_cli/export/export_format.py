"""What every format of an exported network does."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.model import TrainedNetwork


class ExportFormat(ABC):
    """A trained network as `files` in a folder.

    `tolerance`: how far a logit may be off, as a share of the largest logit or of 1; None for a format that
    rounds on purpose, whose accuracy is measured instead.
    """

    files: tuple[str, ...]
    tolerance: float | None

    @abstractmethod
    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        """Give back what the files compute, read anew: preprocessed images (n, ...) to logits (n, classes).

        `data`: what the network was trained for; None where it is gone.
        """
