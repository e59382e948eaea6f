"""MobileNet's space: its spellings, its two supernets, and the networks cut out of them."""

import random
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.config import build
from nas_cli.cost import count_parameters, multiply_adds
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.layers.inverted_residual import Block
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.spaces.mobilenet import ElasticMobileNet, MobileNet, SideBySideMobileNet
from nas_cli.supernet import Form, Gate, Supernet, SupernetOptions
from tests.spaces.images import image_info, images_of

FORMS: tuple[Form, ...] = ("side_by_side", "elastic")
every_form = pytest.mark.parametrize("form", FORMS)


def small_space(size: int = 8, resolution: int | None = None) -> MobileNet:
    return MobileNet(
        image_info(size),
        stem_channels=4,
        first_channels=4,
        stage_channels=(4, 8),
        stage_strides=(1, 2),
        head_channels=16,
        depths=(1, 2, 3),
        resolution=resolution,
    )


def soft_gates(supernet: Supernet) -> list[Gate]:
    return [Gate.soft(torch.full(shape, 1 / shape[1])) for shape in supernet.gate_shapes]


@cache
def trained(form: Form) -> tuple[MobileNet, Supernet]:
    """A supernet whose weights, transforms and batch statistics are no longer the initial ones."""
    space, draws = small_space(), random.Random(0)
    with seeded(0, form):
        supernet = space.build_supernet(SupernetOptions(form=form))
        optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
        for _ in range(12):
            gates = supernet.gates_of(space.sample(draws))
            supernet(images_of(space.info), gates).square().sum().clamp(max=10).backward()
            nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
    return space, supernet


def elastic() -> tuple[MobileNet, ElasticMobileNet]:
    space, supernet = trained("elastic")
    assert isinstance(supernet, ElasticMobileNet)
    return space, supernet


def side_by_side() -> tuple[MobileNet, SideBySideMobileNet]:
    space, supernet = trained("side_by_side")
    assert isinstance(supernet, SideBySideMobileNet)
    return space, supernet


def parameters_with_gradients(module: nn.Module, logits: Tensor) -> list[str]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]


def largest(space: MobileNet) -> Architecture:
    return Architecture(tuple(len(choice.options) - 1 for choice in space.choices))


# The space


def test_the_choices_of_a_stage_are_its_depth_and_each_layers_kernel_and_expansion() -> None:
    names = [choice.name for choice in small_space().choices]
    assert names[:4] == [
        "stage0.depth",
        "stage0.layer0.kernel",
        "stage0.layer0.expansion",
        "stage0.layer1.kernel",
    ]
    assert names[7] == "stage1.depth"
    assert len(names) == 2 * (1 + 2 * 3)


def test_picks_beyond_the_depth_are_one_spelling() -> None:
    space = small_space()
    options = space.options_of(largest(space)) | {"stage0.depth": 1}
    canonical = space.options_of(space.canonical(space.architecture_of(options)))
    assert canonical["stage0.layer0.kernel"] == 7
    assert canonical["stage0.layer1.kernel"] == 3
    assert canonical["stage0.layer2.expansion"] == 3
    assert canonical["stage1.layer2.expansion"] == 6


def test_two_spellings_of_one_network_are_one_network() -> None:
    space = small_space()
    options = space.options_of(largest(space)) | {"stage0.depth": 2}
    first = space.architecture_of(options)
    second = space.architecture_of(options | {"stage0.layer2.kernel": 3})
    assert first != second
    assert space.canonical(first) == space.canonical(second)
    assert space.spell(first) == space.spell(second) == "k7e6 k7e6 | k7e6 k7e6 k7e6"


def test_a_network_has_as_many_blocks_as_its_stages_are_deep() -> None:
    space = small_space()
    network = space.build(space.architecture_from(((Block(3, 3),), (Block(5, 4), Block(7, 6)))))
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in network.stages.state_dict().items()
        if name.endswith("depthwise.conv.weight")
    }
    assert shapes == {
        "0.0.depthwise.conv.weight": (12, 1, 3, 3),
        "1.0.depthwise.conv.weight": (16, 1, 5, 5),
        "1.1.depthwise.conv.weight": (48, 1, 7, 7),
    }


def test_the_parameters_of_a_network_are_those_counted_by_hand() -> None:
    space = small_space()
    network = space.build(space.architecture_from(((Block(3, 3),), (Block(5, 4),))))
    around = (3 * 4 * 9 + 8) + (4 * 9 + 8 + 16 + 8) + (8 * 16 + 32) + (16 * 10 + 10)
    first = (4 * 12 + 24) + (12 * 9 + 24) + (12 * 4 + 8)
    second = (4 * 16 + 32) + (16 * 25 + 32) + (16 * 8 + 16)
    assert count_parameters(network) == around + first + second


@pytest.mark.parametrize("size", [8, 32, 65, 224])
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_8_to_224_pixels_are_read(size: int, channels: int) -> None:
    space = MobileNet(image_info(size, channels))
    with torch.no_grad():
        logits = space.build(space.sample(random.Random(0)))(images_of(space.info, count=2))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_large_images_are_halved_by_the_first_convolution_and_small_ones_are_not() -> None:
    small, large = (MobileNet(image_info(size)).make_skeleton() for size in (64, 65))
    halved = MobileNet(image_info(64), stem_stride=2).make_skeleton()
    strides = [skeleton.stem.conv.stride for skeleton in (small, large, halved)]
    assert strides == [(1, 1), (2, 2), (2, 2)]


def test_images_are_resized_to_the_resolution() -> None:
    resized, plain = small_space(8, resolution=16), small_space(16)
    smallest = Architecture((0,) * len(plain.choices))
    with torch.device("meta"):
        costs = [multiply_adds(space.build(smallest), space.info) for space in (resized, plain)]
    assert costs[0] == costs[1]


def test_too_small_images_are_refused_with_the_setting_that_enlarges_them() -> None:
    with pytest.raises(UnsupportedError, match=r"too small.*space\.resolution"):
        MobileNet(image_info(2))
    assert MobileNet(image_info(2), resolution=8)


def test_a_width_multiplier_rounds_to_multiples_of_8_and_does_not_narrow_the_head() -> None:
    space = MobileNet(image_info(), stage_channels=(16, 24, 40), width_multiplier=0.75)
    assert [places[0].out_channels for places in space.places] == [16, 24, 32]
    assert space.around.head_channels == 128
    assert MobileNet(image_info(), width_multiplier=1.5).around.head_channels == 192


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"kernels": []}, "at least 1 entries"),
        ({"kernels": [3, 4]}, "an even kernel has no centre"),
        ({"kernels": [5, 3]}, "in ascending order"),
        ({"expansions": [3, 3]}, "none twice"),
        ({"expansions": [1, 3]}, "at least 2"),
        ({"depths": [0, 1]}, "at least 1"),
        ({"stage_strides": [1, 2, 4]}, "one of 1, 2"),
        ({"activation": "swish"}, "Did you mean hard_swish"),
        ({"resolution": 4}, "at least 8"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_name(setting: dict[str, object], said: str) -> None:
    node = OmegaConf.create({"_target_": "nas_cli.spaces.mobilenet.MobileNet", **setting})
    with pytest.raises(ConfigError, match=f"space.{next(iter(setting))}=.*{said}"):
        build(SearchSpace, node, image_info())  # type: ignore[type-abstract,unused-ignore]


def test_stages_with_unlike_lists_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage_channels=\[8, 16\] are 2 .*stage_strides=\[1\] are 1"):
        MobileNet(image_info(), stage_channels=(8, 16), stage_strides=(1,))


def test_an_auxiliary_head_is_refused_with_the_setting_to_change() -> None:
    space = small_space()
    with pytest.raises(UnsupportedError, match=r"recipe\.auxiliary_weight=0"):
        space.build(largest(space), auxiliary_head=True)


def test_a_drawing_is_a_chain_of_blocks_for_each_stage() -> None:
    space = small_space()
    cells = space.cells(space.architecture_from(((Block(3, 3),), (Block(5, 4), Block(7, 6)))))
    assert list(cells) == ["stage0", "stage1"]
    assert cells["stage1"].edges == (("0", "1", "5x5, expansion 4"), ("1", "2", "7x7, expansion 6"))
    assert cells["stage1"].outputs == ("2",)


# Both supernets


@every_form
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_supernet_under_the_gates_of_an_architecture_computes_its_cut_out(
    form: Form, training: bool
) -> None:
    space, supernet = trained(form)
    supernet.train(training)
    images, draws = images_of(space.info), random.Random(0)
    for _ in range(20):
        architecture = space.sample(draws)
        network = supernet.cut_out(architecture)
        assert network.training == training
        with torch.no_grad():
            expected = network(images)
            actual = supernet(images, supernet.gates_of(architecture))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@every_form
def test_the_gates_of_an_architecture_discretise_to_its_canonical_spelling(form: Form) -> None:
    space, supernet = trained(form)
    draws = random.Random(0)
    for _ in range(20):
        architecture = space.sample(draws)
        weights = [gate.weights for gate in supernet.gates_of(architecture)]
        assert supernet.discretise(weights) == space.canonical(architecture)


@every_form
def test_a_cut_out_fits_into_the_network_as_published(form: Form) -> None:
    space, supernet = trained(form)
    supernet.eval()
    architecture = space.sample(random.Random(1))
    cut_out, network = supernet.cut_out(architecture), space.build(architecture).eval()
    network.load_state_dict(cut_out.state_dict())
    images = images_of(space.info)
    assert torch.equal(network(images), cut_out(images))


@every_form
def test_a_cut_out_shares_no_weight_with_the_supernet(form: Form) -> None:
    space, supernet = trained(form)
    shared = {tensor.untyped_storage().data_ptr() for tensor in supernet.state_dict().values()}
    state = supernet.cut_out(largest(space)).state_dict()
    assert not shared & {tensor.untyped_storage().data_ptr() for tensor in state.values()}


@every_form
def test_the_weights_of_a_cut_out_can_be_trained(form: Form) -> None:
    space, supernet = trained(form)
    network = supernet.cut_out(largest(space))
    network(images_of(space.info)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@every_form
def test_cutting_out_draws_no_random_number(form: Form) -> None:
    space, supernet = trained(form)
    before = torch.get_rng_state()
    supernet.cut_out(largest(space))
    assert torch.equal(torch.get_rng_state(), before)


@every_form
def test_the_plain_form_is_the_same_function(form: Form) -> None:
    space, supernet = trained(form)
    plain = space.build_supernet(SupernetOptions(form=form, plain=True))
    plain.load_state_dict(supernet.state_dict())
    images, gates = images_of(space.info), supernet.gates_of(space.sample(random.Random(2)))
    gradients = [gradients_of(network, images, gates) for network in (supernet.train(), plain.train())]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def gradients_of(network: Supernet, images: Tensor, gates: Sequence[Gate]) -> tuple[Tensor, ...]:
    loss = network(images, gates).square().sum()
    return torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)


@every_form
def test_a_part_of_the_channels_is_refused_with_the_spaces_that_have_it(form: Form) -> None:
    with pytest.raises(UnsupportedError, match="space=darts or space=nasbench201"):
        small_space().build_supernet(SupernetOptions(partial_channels=4, form=form))


# Side by side


def test_layers_beyond_the_least_depth_can_be_skipped() -> None:
    _, supernet = side_by_side()
    assert supernet.gate_shapes == ((1, 9), (1, 10), (1, 10)) * 2
    assert supernet.candidates[0] == supernet.candidates[1][:9]
    assert supernet.candidates[1][4] == "kernel5_expansion4"
    assert supernet.candidates[1][9] == "skip"


def test_blocks_close_ranks_where_a_layer_is_skipped() -> None:
    space, supernet = side_by_side()
    weights = [torch.zeros(shape) for shape in supernet.gate_shapes]
    for layer, candidate in enumerate((0, 9, 8, 3, 9, 9)):
        weights[layer][0, candidate] = 0.4
    assert space.spell(supernet.discretise(weights)) == "k3e3 k7e6 | k5e3"


def test_only_the_active_candidates_are_computed() -> None:
    _, supernet = side_by_side()
    supernet.train()
    gates = [Gate.one_hot([shape[1] - 1], shape[1], torch.zeros(1)) for shape in supernet.gate_shapes]
    used = parameters_with_gradients(supernet.stages, supernet(images_of(image_info()), gates))
    assert {name.split(".candidates")[0] for name in used} == {"0.0", "1.0"}
    assert {name.split(".")[3] for name in used} == {"8"}


def test_soft_gates_mix_blocks_and_the_skip() -> None:
    _, supernet = side_by_side()
    layer = supernet.layers[1].eval()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(1, 10)
    weights[0, 2], weights[0, 9] = 0.3, 0.7
    mixed = layer(x, Gate(weights, ((2, 9),)))
    torch.testing.assert_close(mixed, 0.3 * layer.candidates[2](x) + 0.7 * x)


def test_a_candidate_is_one_module() -> None:
    _, supernet = side_by_side()
    (block,) = supernet.candidate_modules(4, 0, 5)
    assert block is supernet.layers[4].candidates[5]
    assert isinstance(supernet.candidate_modules(1, 0, 9)[0], nn.Identity)


def test_depths_with_a_gap_are_refused_side_by_side_and_elastic_ones_are_not() -> None:
    space = MobileNet(image_info(), depths=(2, 4))
    with pytest.raises(UnsupportedError, match=r"space\.depths=\[2, 3, 4\]"):
        space.build_supernet(SupernetOptions())
    assert space.build_supernet(SupernetOptions(form="elastic"))


# Elastic


def test_elastic_gates_are_the_choices_of_the_space() -> None:
    space, supernet = elastic()
    assert supernet.gate_shapes == tuple((1, len(choice.options)) for choice in space.choices)
    assert supernet.candidates[:3] == (
        ("depth1", "depth2", "depth3"),
        ("kernel3", "kernel5", "kernel7"),
        ("expansion3", "expansion4", "expansion6"),
    )


def test_two_open_candidates_of_an_elastic_choice_are_refused_with_what_works() -> None:
    _, supernet = elastic()
    with pytest.raises(UnsupportedError, match=r"opens 3 candidates of stage0\.depth .* side_by_side"):
        supernet(images_of(image_info()), soft_gates(supernet))


def test_elastic_candidates_are_no_modules_of_their_own() -> None:
    _, supernet = elastic()
    with pytest.raises(UnsupportedError, match="no modules of their own"):
        supernet.candidate_modules(0, 0, 0)


def test_layers_beyond_the_depth_get_no_gradient() -> None:
    space, supernet = elastic()
    supernet.train()
    gates = supernet.gates_of(space.architecture_from(((Block(7, 6),), (Block(7, 6), Block(7, 6)))))
    used = parameters_with_gradients(supernet.stages, supernet(images_of(image_info()), gates))
    assert {name[:3] for name in used} == {"0.0", "1.0", "1.1"}


def test_sorting_channels_keeps_the_function_of_the_largest_network() -> None:
    space = small_space()
    _, source = elastic()
    supernet = ElasticMobileNet(space, SupernetOptions())
    supernet.load_state_dict(source.state_dict())
    supernet.eval()
    images, gates = images_of(space.info), supernet.gates_of(largest(space))
    with torch.no_grad():
        before = supernet(images, gates)
        weights = supernet.stages.state_dict()["0.0.project.conv.weight"].clone()
        supernet.sort_channels()
        torch.testing.assert_close(supernet(images, gates), before, atol=1e-5, rtol=0)
    assert not torch.equal(supernet.stages.state_dict()["0.0.project.conv.weight"], weights)


def test_sorting_within_an_expansion_keeps_the_functions_of_all_that_are_as_large() -> None:
    space = small_space()
    _, source = elastic()
    supernet = ElasticMobileNet(space, SupernetOptions())
    supernet.load_state_dict(source.state_dict())
    supernet.eval()
    images, kept = images_of(space.info), ((Block(5, 4), Block(7, 6)), (Block(3, 6), Block(7, 4)))
    gates = supernet.gates_of(space.architecture_from(kept))
    with torch.no_grad():
        before = supernet(images, gates)
        supernet.sort_channels(narrowest=4)
        torch.testing.assert_close(supernet(images, gates), before, atol=1e-5, rtol=0)
