"""The depthwise convolution is torch's own, with its gradients."""

import pytest
import torch
import torch.nn.functional as F

from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.layers.phases import merge_phases, split_phases


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("size", [(16, 16), (8, 8), (5, 7), (4, 6), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_it_is_the_plain_convolution(
    kernel: int, stride: int, dilation: int, size: tuple[int, int], channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(kernel)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    weight.requires_grad_()
    padding = dilation * (kernel // 2)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, 3)
    actual = depthwise_conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    gradient = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for found, wanted in zip(
        torch.autograd.grad(actual, (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [8, 6, 4])
@pytest.mark.parametrize(("kernel", "dilation"), [(5, 1), (5, 2), (7, 1)])
def test_it_is_twice_differentiable(size: int, kernel: int, dilation: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, size, size, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64, generator=generator, requires_grad=True)

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return depthwise_conv2d(x, weight, stride=1, padding=kernel // 2 * dilation, dilation=dilation)

    assert torch.autograd.gradcheck(convolve, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, (x, weight), fast_mode=True)


def test_phases_are_the_pixels_of_even_row_and_column_then_the_others() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert split_phases(x)[:, 0].tolist() == [
        [[0, 2], [8, 10]],
        [[1, 3], [9, 11]],
        [[4, 6], [12, 14]],
        [[5, 7], [13, 15]],
    ]


def test_merging_undoes_splitting() -> None:
    x = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merge_phases(split_phases(x)), x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_under_autocast_images_of_full_precision_have_gradients(kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator).requires_grad_()
    weight = torch.randn(4, 1, kernel, kernel, generator=generator).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolved = depthwise_conv2d(x, weight, stride=stride, padding=kernel // 2, dilation=1)
        plain = F.conv2d(x, weight, None, stride, kernel // 2, 1, 4)
    assert convolved.dtype == torch.bfloat16
    gradients, expected = (
        torch.autograd.grad(value.float().square().sum(), (x, weight)) for value in (convolved, plain)
    )
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0.05, atol=0.05 * wanted.abs().max().item())


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_stride_in_bfloat16_is_computed_in_float32(kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(4, 1, kernel, kernel, generator=generator).requires_grad_()
    exact = F.conv2d(x.float(), weight, None, 2, kernel // 2, 1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolved = depthwise_conv2d(x, weight, stride=2, padding=kernel // 2, dilation=1)
    assert torch.equal(convolved, exact.bfloat16())
