"""Sums and products over pixels, by either library and in parts."""

from collections.abc import Iterator

import pytest
import torch

from nas_cli.layers import products
from nas_cli.layers.products import (
    MANY,
    add_convolution,
    add_product,
    channel_sums,
    inner_products,
    inner_products_and_sums,
    inner_products_of_images,
    linear,
    partial_sums,
    product,
    stacked_product,
)


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


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_convolution_is_added_in_place(layout: torch.memory_format, dtype: torch.dtype) -> None:
    images = (
        (torch.arange(2.0 * 16 * 3 * 3, dtype=dtype) % 5).view(2, 16, 3, 3).contiguous(memory_format=layout)
    )
    total = torch.ones(2, 16, 3, 3, dtype=dtype).contiguous(memory_format=layout)
    kernels, bias = torch.ones(16, 1, 3, 3, dtype=dtype), torch.full((16,), 3.0, dtype=dtype)
    sums = add_convolution(total, images, kernels, bias, padding=1, groups=16)
    assert sums is total
    assert total[:, :, 1, 1].equal(4 + images.sum((2, 3)))
    assert total[:, :, 0, 2].equal(4 + images[:, :, :2, 1:].sum((2, 3)))
    add_convolution(total, images, kernels, padding=1, groups=16)
    assert total[:, :, 1, 1].equal(4 + 2 * images.sum((2, 3)))


@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "contiguous"])
def test_onednn_multiplies_pixels(transposed: bool) -> None:
    pixels = (torch.arange(64.0 * 16) % 7).view(64, 16)
    matrix = torch.zeros(16, 32)
    matrix[3, 5], matrix[4, 5], matrix[7, 31] = 1.0, 2.0, -1.0
    matrix = matrix.t().contiguous().t() if transposed else matrix
    expected = torch.zeros(64, 32)
    expected[:, 5], expected[:, 31] = pixels[:, 3] + 2 * pixels[:, 4], -pixels[:, 7]
    assert linear(pixels, matrix, None).equal(expected)
    assert linear(pixels, matrix, torch.full((32,), 3.0)).equal(expected + 3)


@pytest.mark.usefixtures("threads")
def test_a_product_does_not_depend_on_its_parts() -> None:
    left = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert inner_products(left[None], left[None, :, :1]).tolist() == [[[84.0], [100.0]]]


@pytest.mark.parametrize("amd", [True, False], ids=["onednn", "mkl"])
@pytest.mark.parametrize("edges", [1, 3])
@pytest.mark.parametrize("beside", [True, False], ids=["side by side", "stacked"])
def test_both_libraries_compute_the_same_in_both_layouts(
    monkeypatch: pytest.MonkeyPatch, amd: bool, edges: int, beside: bool
) -> None:
    monkeypatch.setattr(products, "is_amd", lambda: amd)
    pixels, matrices = torch.arange(128.0).view(1, 128, 1) % 7, torch.zeros(edges, 16, 32)
    matrices[:, 3, 5] = torch.arange(1.0, edges + 1)
    blocks = pixels.expand(edges, 128, 16).contiguous()
    if beside:
        blocks = blocks.transpose(0, 1).contiguous().transpose(0, 1)
    expected = torch.zeros(edges, 128, 32)
    expected[:, :, 5] = pixels[..., 0] * torch.arange(1.0, edges + 1).unsqueeze(1)
    with torch.no_grad():
        assert product(blocks, matrices).equal(expected)
        assert product(blocks, matrices, torch.ones(edges, 32)).equal(expected + 1)
        assert stacked_product(blocks, matrices).is_contiguous()
        assert stacked_product(blocks, matrices).equal(expected)
        assert add_product(torch.ones(edges, 128, 32), blocks, matrices).equal(expected + 1)
        found, sums = inner_products_and_sums(blocks, blocks)
    assert sums.equal(pixels.sum().expand(edges, 16))
    assert found.equal((pixels * pixels).sum().expand(edges, 16, 16))


@pytest.mark.parametrize("amd", [True, False], ids=["onednn", "mkl"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_images_have_the_inner_products_and_sums_of_their_pixels(
    monkeypatch: pytest.MonkeyPatch, amd: bool, layout: torch.memory_format
) -> None:
    monkeypatch.setattr(products, "is_amd", lambda: amd)
    counting = (torch.arange(2.0 * 16 * 64) % 3).view(2, 16, 8, 8).contiguous(memory_format=layout)
    marked = torch.zeros(2, 32, 8, 8).contiguous(memory_format=layout)
    marked[1, 5, 2, 3] = 2.0
    expected = torch.zeros(16, 32)
    expected[:, 5] = 2 * counting[1, :, 2, 3]
    with torch.no_grad():
        assert inner_products_of_images(counting, marked).equal(expected)
        assert partial_sums(counting).tolist() == [counting.sum((0, 2, 3)).tolist()]


def test_many_pixels_are_summed_in_parts() -> None:
    images = torch.ones(MANY // 64, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert partial_sums(images).tolist() == [[512.0] * 3] * 32
