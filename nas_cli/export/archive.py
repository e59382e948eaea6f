"""A `.pt2` archive: `torch.export.load("network.pt2").module()(images)` runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.export.export_format import ExportFormat
from nas_cli.export.program import description_of, program_of
from nas_cli.model import TrainedNetwork


class Archive(ExportFormat):
    """Classes and preprocessing are its extra files."""

    files = ("network.pt2",)
    tolerance = 1e-6

    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        path = folder / "network.pt2"
        torch.export.save(program_of(trained), path, extra_files=description_of(trained))
        return cast(Callable[[Tensor], Tensor], torch.export.load(path).module())
