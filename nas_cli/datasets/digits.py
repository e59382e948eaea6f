"""Handwritten digits that come with scikit-learn: nothing to download."""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from nas_cli.data import Dataset, ImageData, Images, stratified
from nas_cli.datasets.assembly import assemble
from nas_cli.seeds import stream

NUM_TEST = 360


class Digits(Dataset):
    """1,797 handwritten digits, 8 x 8 pixels, one channel; 360 of them are the test part, always the same."""

    def __init__(self, *, limit: Annotated[int, Field(ge=2)] | None = None) -> None:
        self.limit = limit

    def load(self) -> ImageData:
        values = _read_file()
        pixels = np.rint(values[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        images = Images(torch.from_numpy(pixels), torch.from_numpy(values[:, -1].astype(np.int64)))
        test, train = stratified(images.labels, NUM_TEST, stream(0, "test"))
        return assemble(
            images.select(train),
            images.select(test),
            class_names="0123456789",
            mirror=False,
            limit=self.limit,
            source="dataset=digits",
        )


def _read_file() -> NDArray[np.float64]:
    """64 values 0..16 and the label of each image.

    The file is read without importing scikit-learn, which takes half as long as importing torch and 75 MB.
    """
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is installed with this package"
    assert package.origin is not None, "it is a folder with __init__.py"
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        return np.loadtxt(file, delimiter=",")
