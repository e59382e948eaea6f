"""The candidates by their definitions."""

import pytest
import torch
from torch import nn

from nas_cli.errors import UnsupportedError
from nas_cli.layers.operations import OPERATIONS, FactorizedReduce, ReluConvBN, make_operation


@pytest.mark.parametrize("size", [8, 5, 2, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_stride_1_keeps_the_size_and_stride_2_halves_it_upwards(name: str, stride: int, size: int) -> None:
    operation = make_operation(name, 4, stride, affine=True, pool_norm=True)
    halved = (size + stride - 1) // stride
    assert operation(torch.randn(2, 4, size, size)).shape == (2, 4, halved, halved)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"no operation 'conv_9x9'; there are none, skip_connect"):
        make_operation("conv_9x9", 4, 1, affine=True, pool_norm=False)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sep_conv_3x3", 2 * (9 + 16) * 16),
        ("dil_conv_5x5", (25 + 16) * 16),
        ("nor_conv_3x3", 9 * 256),
        ("bottleneck_conv_3x3", 2 * 4 * 16 + 9 * 4 * 4),
        ("bottleneck_dil_conv_3x3", 2 * 4 * 16 + 9 * 4 * 4),
        ("bottleneck_conv_1x3_3x1", 2 * 6 * 16 + 2 * 3 * 6 * 6),
        ("bottleneck_conv_1x7_7x1", 2 * 4 * 16 + 2 * 7 * 4 * 4),
    ],
)
def test_convolutions_have_no_bias(name: str, count: int) -> None:
    operation = make_operation(name, 16, 1, affine=False, pool_norm=False)
    assert sum(parameter.numel() for parameter in operation.parameters()) == count


def test_a_bottleneck_has_one_channel_at_least() -> None:
    operation = make_operation("bottleneck_conv_3x3", 2, 1, affine=False, pool_norm=False)
    assert [tuple(parameter.shape) for parameter in operation.parameters()] == [
        (1, 2, 1, 1),
        (1, 1, 3, 3),
        (2, 1, 1, 1),
    ]


def test_each_of_two_narrow_convolutions_halves_one_side() -> None:
    operation = make_operation("bottleneck_conv_1x7_7x1", 4, 2, affine=False, pool_norm=False)
    convolutions = [module for module in operation.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size for conv in convolutions] == [(1, 1), (1, 7), (7, 1), (1, 1)]
    assert [conv.stride for conv in convolutions] == [(1, 1), (1, 2), (2, 1), (1, 1)]


def test_a_dilated_convolution_skips_every_second_pixel() -> None:
    operation = make_operation("bottleneck_dil_conv_3x3", 4, 1, affine=False, pool_norm=False)
    inner = operation[1].conv  # type: ignore[index]
    assert (inner.kernel_size, inner.dilation, inner.groups) == ((3, 3), (2, 2), 1)


def test_a_learned_scale_is_that_of_convolutions_and_never_of_pools() -> None:
    with_scale = make_operation("sep_conv_3x3", 4, 1, affine=True, pool_norm=True)
    pool = make_operation("max_pool_3x3", 4, 1, affine=True, pool_norm=True)
    assert [norm.affine for norm in with_scale.modules() if isinstance(norm, nn.BatchNorm2d)] == [True, True]
    assert [norm.affine for norm in pool.modules() if isinstance(norm, nn.BatchNorm2d)] == [False]


def test_average_pooling_does_not_count_the_padding() -> None:
    pool = make_operation("avg_pool_3x3", 1, 1, affine=False, pool_norm=False)
    assert (pool(torch.ones(1, 1, 4, 4)) == 1).all()


def test_the_second_half_of_a_factorized_reduce_sees_the_other_pixels() -> None:
    reduce = FactorizedReduce(1, 2, affine=False).eval()
    nn.init.ones_(reduce.even.weight)
    nn.init.ones_(reduce.odd.weight)
    reduced = reduce(torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)).round()
    assert reduced[0].tolist() == [[[1, 3], [9, 11]], [[6, 8], [14, 16]]]


@pytest.mark.parametrize("operation", ["factorized reduce", "1x1 convolution"])
def test_few_channels_of_large_images_are_halved_within_their_memory(operation: str) -> None:
    """oneDNN writes past it in the backward pass of a strided 1x1 convolution (its issue 6035)."""
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = (
            FactorizedReduce(4, 4, affine=False)
            if operation == "factorized reduce"
            else ReluConvBN(4, 4, 1, 2, 0, affine=False)
        ).to(memory_format=layout)
        images = torch.randn(4, 4, 56, 56).contiguous(memory_format=layout)
        layer(images).pow(3).sum().backward()
        gradients.append(next(layer.parameters()).grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)
