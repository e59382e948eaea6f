import math

import pytest
import torch
from torch import Tensor, nn

from nas_cli.data import Batch
from nas_cli.errors import UnsupportedError
from nas_cli.zero_cost import Probe, grad_norm, naswot, snip, synflow


def linear(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        layer.bias.zero_()
    return layer


def probe(network: nn.Module, images: list[list[float]], labels: list[int] | None = None) -> Probe:
    return Probe(network, Batch(torch.tensor(images), torch.tensor(labels or [0] * len(images))))


class Rectified(nn.Module):
    """The codes of images are the signs of their pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images)


def test_synflow_sums_the_flow_through_each_layer_in_magnitudes() -> None:
    # An image of ones gives |1| + |-2| = 3 and then 3 * |-4| = 12 in all: each layer carries these 12.
    network = nn.Sequential(linear([1.0, -2.0]), linear([-4.0]))
    assert synflow(probe(network, [[5.0, 7.0]])) == pytest.approx(math.log1p(24))


def test_synflow_leaves_batch_norms_out_and_the_network_as_it_is() -> None:
    network = nn.Sequential(linear([1.0, -2.0]), nn.BatchNorm1d(1), linear([-4.0]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert synflow(probe(network, [[5.0, 7.0]])) == pytest.approx(math.log1p(24))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network[0].weight.dtype == torch.float32


def test_synflow_of_a_network_that_nothing_flows_through_is_zero() -> None:
    assert synflow(probe(linear([0.0, 0.0]), [[1.0, 1.0]])) == 0.0


def test_synflow_does_not_overflow() -> None:
    network = nn.Sequential(*(linear([1e10]) for _ in range(9)))
    assert synflow(probe(network, [[1.0]])) == pytest.approx(90 * math.log(10) + math.log(9), rel=1e-6)


def test_naswot_is_the_log_determinant_of_how_many_units_agree() -> None:
    # Codes 111 and 110 agree in two units of three: |3 2; 2 3| = 5.
    assert naswot(probe(Rectified(), [[1.0, 2.0, 3.0], [1.0, 2.0, -3.0]])) == pytest.approx(math.log(5))


def test_naswot_adds_the_units_of_all_layers() -> None:
    # The second layer is another rectifier of the same code: every count is doubled, |6 4; 4 6| = 20.
    network = nn.Sequential(Rectified(), nn.ReLU())
    assert naswot(probe(network, [[1.0, 2.0, 3.0], [1.0, 2.0, -3.0]])) == pytest.approx(math.log(20))


def test_naswot_of_images_that_are_not_told_apart_is_low_but_finite() -> None:
    # Two units, always on: eigenvalues 4 and 0, the latter counted as 1e-6.
    score = naswot(probe(Rectified(), [[1.0, 2.0], [3.0, 4.0]]))
    assert score == pytest.approx(math.log(4) + math.log(1e-6))


def test_naswot_counts_hard_swish_and_relu6() -> None:
    for rectifier in (nn.Hardswish(), nn.ReLU6()):
        score = naswot(probe(rectifier, [[1.0, 2.0, 3.0], [1.0, 2.0, -3.0]]))
        assert score == pytest.approx(math.log(5))


def test_naswot_of_a_network_without_rectifiers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="this one has none"):
        naswot(probe(linear([1.0]), [[1.0]]))


def test_grad_norm_is_the_length_of_the_loss_gradient() -> None:
    # The softmax of (log 3, 0) is (3/4, 1/4): the gradient for label 0 is (-1/4, 1/4) times the image.
    given = probe(linear([math.log(3) / 2], [0.0]), [[2.0]], [0])
    assert grad_norm(given) == pytest.approx(math.sqrt(2) / 2)


def test_snip_is_the_sum_of_weight_times_gradient_in_magnitude() -> None:
    given = probe(linear([math.log(3) / 2], [0.0]), [[2.0]], [0])
    assert snip(given) == pytest.approx(0.5 * math.log(3) / 2)


def test_weights_that_nothing_depends_on_count_zero() -> None:
    network = linear([math.log(3)], [0.0])
    network.unused = nn.Linear(3, 3)
    assert snip(probe(network, [[1.0]], [0])) == pytest.approx(0.25 * math.log(3))
