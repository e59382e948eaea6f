import pytest
import torch
from torch import Tensor, nn

from nas_cli.cost import Cost, cost_of, count_parameters, multiply_adds
from tests.spaces.images import image_info


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 10))


def test_a_small_network_costs_what_is_counted_by_hand() -> None:
    # Convolution 4*3*9 + 4, norm 2*4, linear 256*10 + 10; multiply-adds 64 pixels * 108, 2560.
    assert cost_of(small_network(), image_info(8)) == Cost(
        parameters=112 + 8 + 2570, multiply_adds=6912 + 2560
    )


def test_a_depthwise_convolution_counts_each_channel_once() -> None:
    assert multiply_adds(nn.Conv2d(3, 3, 3, padding=1, groups=3), image_info(8)) == 64 * 27


def test_a_network_on_the_meta_device_costs_the_same() -> None:
    with torch.device("meta"):
        network = small_network()
    assert cost_of(network, image_info(8)) == cost_of(small_network(), image_info(8))


def test_counting_leaves_every_module_in_its_own_mode() -> None:
    network = small_network()
    next(module for module in network if isinstance(module, nn.BatchNorm2d)).eval()
    statistics = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    multiply_adds(network, image_info(8))
    assert [module.training for module in network] == [True, False, True, True]
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in network.state_dict().items())


def test_the_mode_comes_back_after_a_failure() -> None:
    network = small_network()
    with pytest.raises(RuntimeError):
        multiply_adds(network, image_info(9))
    assert network.training


def test_an_auxiliary_head_runs_in_training_only_and_costs_nothing() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 1, 1)

        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            logits: Tensor = self.head(images)
            return (logits, self.head(images)) if self.training else logits

    assert multiply_adds(TwoHeads(), image_info(8)) == 64 * 3


def test_shared_parameters_count_once() -> None:
    linear = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(linear, linear)) == 20


def test_strides_dilation_and_groups_are_counted_as_torch_computes_them() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, (1, 3), stride=(2, 1), padding=(0, 1), groups=3),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 3, dilation=2),
    )
    network.insert(2, nn.ZeroPad2d(2))  # 4x8 maps of 6*1*3 weights, padded to 8x12; then 4x8 of 2*6*9
    assert multiply_adds(network, image_info(8)) == 4 * 8 * 18 + 4 * 8 * 108


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_that_are_no_layers_are_counted_too(device: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(64, 10))

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(2)
            return (rows @ rows.transpose(1, 2)).sum() + rows[:, 0] @ self.weight

    with torch.device(device):
        network = Attention()
    assert multiply_adds(network, image_info(8)) == 3 * 3 * 64 + 64 * 10


def test_a_network_that_reads_its_weights_by_itself_is_counted_on_the_meta_device() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.conv = nn.Conv2d(3, 1, 1)

        def forward(self, images: Tensor) -> Tensor:
            convolved: Tensor = self.conv(self.scale * images)
            return convolved

    with torch.device("meta"):
        network = Scaled()
    assert multiply_adds(network, image_info(8)) == 64 * 3
