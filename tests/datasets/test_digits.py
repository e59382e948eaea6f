"""The data set that needs no download."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nas_cli.data import Part
from nas_cli.datasets.digits import Digits
from nas_cli.errors import DataError


def every(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    return part.read(torch.arange(len(part)))


def test_digits_are_all_there() -> None:
    data = Digits().load()
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert (data.info.channels, data.info.size, data.info.num_classes) == (1, 8, 10)
    assert data.info.class_names[3] == "3"
    assert not data.info.mirror
    assert data.info.mean == pytest.approx((0.305,), abs=0.002)
    assert data.info.std == pytest.approx((0.376,), abs=0.002)
    pixels, labels = data.train.read(torch.arange(1437))
    assert (pixels.dtype, tuple(pixels.shape), labels.dtype) == (torch.uint8, (1437, 1, 8, 8), torch.int64)
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_the_test_part_is_always_the_same_and_balanced() -> None:
    one, other = Digits().load().test, Digits(limit=100).load().test
    everything = torch.arange(360)
    assert torch.equal(one.read(everything)[0], other.read(everything)[0])
    assert set(one.labels.bincount().tolist()) <= {35, 36, 37}


def test_a_limit_takes_the_same_balanced_images_each_time() -> None:
    one, other = (Digits(limit=100).load().train for _ in range(2))
    assert set(one.labels.bincount().tolist()) <= {9, 10, 11}
    assert torch.equal(one.read(torch.arange(100))[0], other.read(torch.arange(100))[0])


def test_a_limit_above_the_number_of_images_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.limit=1438 is more than the 1437 training images"):
        Digits(limit=1438).load()


def test_a_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.limit=9 is fewer than the 10 classes"):
        Digits(limit=9).load()


def test_digits_are_those_of_scikit_learn() -> None:
    values, labels = load_digits(return_X_y=True)
    data = Digits().load()
    pixels, classes = map(torch.cat, zip(every(data.train), every(data.test), strict=True))
    assert classes.bincount().tolist() == np.bincount(labels).tolist()
    ours = np.sort(pixels.reshape(1797, 64).numpy(), axis=0)
    assert np.array_equal(ours, np.sort(np.rint(values * 255 / 16).astype(np.uint8), axis=0))


def test_a_search_on_digits_imports_nothing_large_but_torch() -> None:
    code = (
        "import sys, nas_cli.commands.search, nas_cli.datasets.digits\n"
        "print([name for name in ('scipy', 'sklearn', 'torchvision', 'triton') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
