"""A `.pt2` archive: `torch.export.load("network.pt2").module()(images)` runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from nas_cli.export.program import description_of, program_of
from nas_cli.model import TrainedNetwork


def export_archive(trained: TrainedNetwork, folder: Path) -> Callable[[Tensor], Tensor]:
    """Classes and preprocessing are its extra files."""
    path = folder / "network.pt2"
    torch.export.save(program_of(trained), path, extra_files=description_of(trained))
    return cast(Callable[[Tensor], Tensor], torch.export.load(path).module())
