"""Layers of which the first channels are used, against plain layers with those weights."""

import pytest
import torch
from torch import Tensor, nn

from nas_cli.layers.sliced import (
    FIXED,
    OPERATIONS,
    PLAIN_SLICED,
    SLICED,
    DepthwiseConv,
    Kit,
    PaddedConv,
    SlicedBatchNorm,
    SlicedClassifier,
    SlicedConv,
    SlicedDepthwiseConv,
    SlicedSequence,
    make_operation,
    take_slices,
)
from nas_cli.seeds import seeded

OF_A_STAGE = [name for name in OPERATIONS if name != "none"]


def images(channels: int) -> Tensor:
    return torch.randn(4, channels, 5, 5, generator=torch.Generator().manual_seed(0))


def test_a_sliced_convolution_is_one_with_the_first_weights_of_both_sides() -> None:
    conv, x = SlicedConv(6, 8, 3), images(4)
    expected = nn.functional.conv2d(x, conv.weight[:5, :4], padding=1)
    torch.testing.assert_close(conv(x, 5), expected)


def test_a_sliced_convolution_gives_as_many_channels_as_it_reads_unless_told() -> None:
    assert SlicedConv(6, 6, 3)(images(4)).shape == (4, 4, 5, 5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("plain", [False, True])
def test_a_sliced_depthwise_convolution_is_one_of_the_first_channels(kernel: int, plain: bool) -> None:
    conv, x = SlicedDepthwiseConv(6, kernel, plain=plain), images(4)
    expected = nn.functional.conv2d(x, conv.weight[:4], padding=kernel // 2, groups=4)
    torch.testing.assert_close(conv(x), expected)


def test_the_weights_of_unused_channels_have_a_gradient_of_zero() -> None:
    conv = SlicedDepthwiseConv(6, 5)
    conv(images(4)).square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad[:4].abs().sum() > 0
    assert conv.weight.grad[4:].abs().sum() == 0


def test_a_sliced_norm_tracks_the_channels_it_sees_alone() -> None:
    norm, narrow, x = SlicedBatchNorm(6), nn.BatchNorm2d(4), images(4) + 3
    torch.testing.assert_close(norm(x), narrow(x))
    assert isinstance(norm.running_mean, Tensor)
    torch.testing.assert_close(norm.running_mean[:4], narrow.running_mean)
    assert norm.running_mean[4:].tolist() == [0, 0]
    assert norm.num_batches_tracked == 1


def test_a_sliced_norm_uses_the_running_statistics_in_evaluation_mode() -> None:
    norm = SlicedBatchNorm(6)
    norm(images(6) + 3)
    narrow = nn.BatchNorm2d(4)
    take_slices(narrow, norm)
    torch.testing.assert_close(norm.eval()(images(4)), narrow.eval()(images(4)))


def test_a_sliced_classifier_reads_the_first_channels() -> None:
    classifier, maps = SlicedClassifier(6, 10), images(4)
    weight, bias = classifier.linear.weight, classifier.linear.bias
    torch.testing.assert_close(classifier(maps), maps.mean((2, 3)) @ weight[:, :4].T + bias)


def test_convolutions_in_a_row_all_give_the_wanted_channels() -> None:
    row = SlicedSequence(SlicedConv(3, 6, 3, 2), SlicedBatchNorm(6), nn.ReLU(), SlicedConv(6, 6, 3, 2))
    assert row(images(3), 4).shape == (4, 4, 2, 2)


@pytest.mark.parametrize("name", OF_A_STAGE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kit", [SLICED, PLAIN_SLICED], ids=["fast", "plain"])
def test_a_sliced_operation_is_the_plain_one_with_its_slices(name: str, training: bool, kit: Kit) -> None:
    with seeded(0, name):
        wide, narrow = make_operation(name, 6, kit), make_operation(name, 4, FIXED)
    wide(images(6))
    take_slices(narrow, wide)
    x = images(4)
    torch.testing.assert_close(wide.train(training)(x), narrow.train(training)(x))


@pytest.mark.parametrize("name", OF_A_STAGE)
def test_an_operation_keeps_width_and_size(name: str) -> None:
    assert make_operation(name, 4, FIXED)(images(4)).shape == (4, 4, 5, 5)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("conv7x7", [PaddedConv, nn.BatchNorm2d, nn.ReLU]),
        ("depthwise_conv3x3", [DepthwiseConv, nn.BatchNorm2d, nn.ReLU]),
        ("sep_conv5x5", [DepthwiseConv, PaddedConv, nn.BatchNorm2d, nn.ReLU]),
    ],
)
def test_an_operation_is_convolution_norm_and_relu(name: str, kinds: list[type]) -> None:
    operation = make_operation(name, 4, FIXED)
    assert [type(layer) for layer in operation.children()] == kinds


def test_the_border_of_an_average_counts_the_pixels_that_are_there() -> None:
    pooled = make_operation("avg_pool3x3", 4, FIXED)(torch.ones(1, 4, 5, 5))
    assert torch.equal(pooled, torch.ones(1, 4, 5, 5))


def test_slices_are_copies() -> None:
    wide, narrow = SlicedConv(6, 6, 3), PaddedConv(4, 4, 3)
    take_slices(narrow, wide)
    with torch.no_grad():
        wide.weight.zero_()
    assert narrow.weight.abs().sum() > 0
    assert narrow.weight.requires_grad
