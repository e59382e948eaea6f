"""Averages as a depthwise convolution sums them."""

import pytest
import torch
from torch import nn

from nas_cli.layers.pooling import pooled


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 3), (5, 8), (8, 8)])
def test_padding_is_not_counted(height: int, width: int, stride: int) -> None:
    layer = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    images = torch.randn(2, 3, height, width, dtype=torch.float64).requires_grad_()
    expected = layer(images)
    torch.testing.assert_close(pooled(layer, images), expected, rtol=0.0, atol=1e-13)
    towards = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(pooled(layer, images), images, towards)
    (wanted,) = torch.autograd.grad(layer(images), images, towards)
    torch.testing.assert_close(gradient, wanted, rtol=0.0, atol=1e-13)


def test_of_ones_every_average_is_one() -> None:
    layer = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
    assert pooled(layer, torch.ones(1, 16, 4, 4)).tolist() == torch.ones(1, 16, 4, 4).tolist()


def test_a_maximum_is_the_layers_own() -> None:
    images = torch.arange(9.0).view(1, 1, 3, 3)
    assert pooled(nn.MaxPool2d(3, 1, padding=1), images).flatten().tolist() == [4, 5, 5, 7, 8, 8, 7, 8, 8]


def test_a_size_that_was_evaluated_first_can_be_trained() -> None:
    layer = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
    images = torch.ones(1, 2, 3, 11, dtype=torch.float64)
    with torch.inference_mode():
        pooled(layer, images)
    images.requires_grad_()
    pooled(layer, images).sum().backward()
    assert images.grad is not None
    assert images.grad[0, 0, 1, 5].item() == pytest.approx(3 / 6 + 3 / 9 + 3 / 6)
