"""Neural architecture search: search, derive and retrain networks on real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_cli.model import TrainedNetwork

__version__ = "0.1.0"


def load(folder: str | Path) -> TrainedNetwork:
    """The trained network of a `nas retrain` run folder (or its `model.pt`), in evaluation mode."""
    from nas_cli.model import load_model

    return load_model(Path(folder))
