"""Images of any shape for the tests of spaces, and where the shared data are."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_cli.data import ImageInfo


def image_info(size: int = 8, channels: int = 3, num_classes: int = 10) -> ImageInfo:
    return ImageInfo(
        channels=channels,
        size=size,
        class_names=tuple(str(k) for k in range(num_classes)),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        mirror=True,
    )


def images_of(info: ImageInfo, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, info.channels, info.size, info.size, generator=generator)


def shared_data(name: str) -> Path:
    """A file of the shared data: in $NAS_DATA or ../shared/data; the test is skipped where it is absent."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("NAS_DATA", root.parent / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip(f"{folder / name} is absent: set NAS_DATA to the folder that holds it")
    return folder / name
