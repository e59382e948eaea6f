"""Elastic slices are exactly those of the full weights."""

import pytest
import torch
from torch import Tensor

from nas_cli.layers.elastic import (
    ElasticDepthwiseConvNorm,
    ElasticInvertedResidual,
    SlicedConvNorm,
    centre,
)
from nas_cli.layers.inverted_residual import Activation, Block, InvertedResidual, Place
from nas_cli.layers.sliced import SlicedBatchNorm

PLACE = Place(4, 4, 1, "relu6")


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(channels: int = 4) -> Tensor:
    return torch.randn(3, channels, 8, 8, generator=draws())


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Every weight and statistic is drawn anew, variances and scales above zero."""
    generator = draws()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith(("norm.weight", "running_var")) else drawn)
    return module


def depthwise(*kernels: int) -> ElasticDepthwiseConvNorm:
    layer = ElasticDepthwiseConvNorm(6, kernels, 1)
    randomised(layer)
    return layer


def elastic_block(place: Place = PLACE) -> ElasticInvertedResidual:
    block = ElasticInvertedResidual(place, (3, 5, 7), (3, 4, 6))
    randomised(block)
    return block.eval()


def test_the_largest_kernel_is_the_weights_themselves() -> None:
    layer = depthwise(3, 5, 7)
    assert torch.equal(layer.weight_of(7, 6), layer.conv.weight)


def test_kernel_5_is_the_centre_of_kernel_7_times_its_transform() -> None:
    layer = depthwise(3, 5, 7)
    middle = layer.conv.weight[:, 0, 1:6, 1:6].reshape(6, 25)
    expected = torch.einsum("ck,jk->cj", middle, layer.transforms[1]).reshape(6, 1, 5, 5)
    torch.testing.assert_close(layer.weight_of(5, 6), expected)


def test_kernel_3_is_the_centre_of_the_transformed_kernel_5_times_its_transform() -> None:
    layer = depthwise(3, 5, 7)
    middle = layer.weight_of(5, 6)[:, 0, 1:4, 1:4].reshape(6, 9)
    expected = torch.einsum("ck,jk->cj", middle, layer.transforms[0]).reshape(6, 1, 3, 3)
    torch.testing.assert_close(layer.weight_of(3, 6), expected)


def test_transforms_are_the_identity_at_first() -> None:
    layer = ElasticDepthwiseConvNorm(6, (3, 5, 7), 1)
    assert torch.equal(layer.weight_of(3, 6), layer.conv.weight[:, :, 2:5, 2:5])


def test_a_kernel_that_is_left_out_has_no_transform() -> None:
    layer = depthwise(3, 7)
    assert [tuple(transform.shape) for transform in layer.transforms] == [(9, 9)]
    expected = centre(layer.conv.weight, 3).flatten(1) @ layer.transforms[0].T
    torch.testing.assert_close(layer.weight_of(3, 6), expected.view(6, 1, 3, 3))


def test_the_first_channels_of_a_kernel_are_those_of_all() -> None:
    layer = depthwise(3, 5, 7)
    torch.testing.assert_close(layer.weight_of(3, 2), layer.weight_of(3, 6)[:2])


def test_a_transform_learns_from_the_kernels_that_it_makes() -> None:
    layer = depthwise(3, 5, 7)
    layer(images(6), 5).square().sum().backward()
    assert layer.transforms[1].grad is not None
    assert layer.transforms[0].grad is None


def test_a_convolution_uses_the_first_channels_of_its_weights() -> None:
    layer = SlicedConvNorm(4, 6).eval()
    expected = torch.nn.functional.conv2d(images(2), layer.conv.weight[:3, :2])
    torch.testing.assert_close(layer(images(2), 3), expected, atol=1e-4, rtol=1e-4)


def test_statistics_beyond_the_channels_in_use_stay_as_they_are() -> None:
    norm = SlicedBatchNorm(4)
    norm(images(3) + 2.0)
    assert norm.running_mean is not None
    assert norm.running_mean[:3].tolist() == pytest.approx([0.2] * 3, abs=0.02)
    assert norm.running_mean[3] == 0.0


@pytest.mark.parametrize("activation", ["relu6", "hard_swish"])
@pytest.mark.parametrize("place", [(4, 4, 1), (4, 6, 1), (4, 4, 2)], ids=str)
@pytest.mark.parametrize("block", [Block(3, 3), Block(5, 4), Block(7, 6)], ids=str)
def test_a_block_cut_out_computes_the_same(
    place: tuple[int, int, int], block: Block, activation: Activation
) -> None:
    elastic = elastic_block(Place(*place, activation))
    alone = elastic.cut_out(block).eval()
    assert type(alone) is InvertedResidual
    torch.testing.assert_close(alone(images()), elastic(images(), block), atol=1e-5, rtol=1e-5)


def test_a_block_cut_out_has_the_first_channels_of_the_full_weights() -> None:
    elastic = elastic_block()
    alone, full = elastic.cut_out(Block(7, 3)).state_dict(), elastic.state_dict()
    assert torch.equal(alone["expand.conv.weight"], full["expand.conv.weight"][:12])
    assert torch.equal(alone["depthwise.conv.weight"], full["depthwise.conv.weight"][:12])
    assert torch.equal(alone["project.conv.weight"], full["project.conv.weight"][:, :12])
    assert torch.equal(alone["depthwise.norm.running_var"], full["depthwise.norm.running_var"][:12])
    assert torch.equal(alone["project.norm.bias"], full["project.norm.bias"])


def test_channels_are_sorted_by_the_norm_of_the_weights_that_read_them() -> None:
    block = elastic_block()
    before = block.project.conv.weight.detach().clone().abs().sum((0, 2, 3))
    block.sort_channels(6)
    after = block.project.conv.weight.detach().abs().sum((0, 2, 3))
    assert torch.equal(after, before.sort(descending=True).values)


def test_sorting_within_an_expansion_leaves_the_channels_beyond_it() -> None:
    block = elastic_block()
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    block.sort_channels(3)
    after = block.state_dict()
    assert torch.equal(after["depthwise.conv.weight"][12:], before["depthwise.conv.weight"][12:])
    assert not torch.equal(after["depthwise.conv.weight"][:12], before["depthwise.conv.weight"][:12])


@pytest.mark.parametrize("block", [Block(3, 6), Block(5, 6), Block(7, 6), Block(5, 4)], ids=str)
def test_sorting_keeps_the_function_of_what_is_as_wide(block: Block) -> None:
    elastic = elastic_block()
    before = elastic(images(), block)
    elastic.sort_channels(block.expansion)
    torch.testing.assert_close(elastic(images(), block), before, atol=1e-3, rtol=1e-4)
