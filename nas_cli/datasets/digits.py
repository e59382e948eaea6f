"""Handwritten digits that come with scikit-learn: nothing to download."""

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas_cli.data import Dataset, ImageData, Images, stratified
from nas_cli.datasets.assembly import assemble
from nas_cli.seeds import stream

NUM_TEST = 360


class Digits(Dataset):
    """1,797 handwritten digits, 8 x 8 pixels, one channel; 360 of them are the test part, always the same."""

    def __init__(self, *, limit: Annotated[int, Field(ge=2)] | None = None) -> None:
        self.limit = limit

    def load(self) -> ImageData:
        images = Images(*_read())
        test, train = stratified(images.labels, NUM_TEST, stream(0, "test"))
        return assemble(
            images.select(train),
            images.select(test),
            class_names="0123456789",
            mirror=False,
            limit=self.limit,
            source="dataset=digits",
        )


def _read() -> tuple[Tensor, Tensor]:
    """Pixels and labels, without the second that the import of scikit-learn takes.

    Its file has a line an image: 64 values of 0 to 16, then the label.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.origin is not None
    lines = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    pixels = np.rint(lines[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(lines[:, -1].astype(np.int64))
