"""Every second pixel and its gradients, against torch's own slices."""

import pytest
import torch
from torch import Tensor

from nas_cli.layers.every_second import DIAGONAL, Strides, every

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def images(size: tuple[int, int], layout: torch.memory_format) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 3, *size, generator=draws, dtype=torch.float64)
    return drawn.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("strides", [(0, 2, 2), DIAGONAL, (0, 1, 2)], ids=str)
@pytest.mark.parametrize("size", [(6, 4), (5, 3)], ids=str)
def test_it_is_the_slice_and_its_gradient_keeps_the_layout(
    size: tuple[int, int], strides: Strides, layout: torch.memory_format
) -> None:
    x, (start, rows, columns) = images(size, layout), strides
    expected = x[:, :, start::rows, start::columns]
    found = every(x, strides)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)
    weights = torch.arange(float(found.numel())).view_as(found).double()
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    assert torch.equal(gradient, torch.autograd.grad((expected * weights).sum(), x)[0])
    assert gradient.is_contiguous(memory_format=layout)


def test_its_second_derivative_is_right() -> None:
    x = images((4, 4), torch.channels_last)
    assert torch.autograd.gradcheck(lambda t: every(t**3, DIAGONAL), (x,))
    assert torch.autograd.gradgradcheck(lambda t: every(t**3, DIAGONAL), (x,))
