"""Sums and products over pixels, which are computed in parts."""

from collections.abc import Iterator

import pytest
import torch

from nas_cli.layers.pointwise import MANY, channel_sums, inner_product


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [7, MANY, MANY + 1])
def test_sums_in_parts_are_those_of_all_pixels(count: int) -> None:
    pixels = torch.arange(2.0 * count, dtype=torch.float64).view(1, count, 2)
    assert channel_sums(pixels).tolist() == [[float(count * (count - 1)), float(count**2)]]


@pytest.mark.usefixtures("threads")
def test_a_product_does_not_depend_on_its_parts() -> None:
    left = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert inner_product(left, left[:, :1]).tolist() == [[84.0], [100.0]]
