"""Handwritten digits that come with scikit-learn: nothing to download."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from sklearn.datasets import load_digits

from nas_cli.data import Dataset, ImageData, Images, stratified
from nas_cli.datasets.assembly import assemble
from nas_cli.seeds import stream

NUM_TEST = 360


class Digits(Dataset):
    """1,797 handwritten digits, 8 x 8 pixels, one channel; 360 of them are the test part, always the same."""

    def __init__(self, *, limit: Annotated[int, Field(ge=2)] | None = None) -> None:
        self.limit = limit

    def load(self) -> ImageData:
        values, labels = load_digits(return_X_y=True)
        pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        images = Images(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))
        test, train = stratified(images.labels, NUM_TEST, stream(0, "test"))
        return assemble(
            images.select(train),
            images.select(test),
            class_names="0123456789",
            mirror=False,
            limit=self.limit,
            source="dataset=digits",
        )
