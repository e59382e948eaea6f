"""Depth, widths and operations of a chain of stages, with weights cut from one set."""

import itertools
import random
from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_cli.architecture import Architecture
from nas_cli.config import build
from nas_cli.cost import cost_of, multiply_adds
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.latency import measure_table
from nas_cli.layers.sliced import OPERATIONS, Operation
from nas_cli.layers.stages import ResidualLayer
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.spaces.macro import MacroSpace, MacroSupernet
from nas_cli.supernet import Gate, SupernetOptions
from nas_cli.timing import Conditions
from tests.spaces.images import image_info, images_of

IMAGES = images_of(image_info())


def all_operations() -> MacroSpace:
    return MacroSpace(image_info(), depths=(2, 4, 7), widths=(3, 4, 6), operations=OPERATIONS)


def small_space(operations: tuple[Operation, ...] = ("skip_connect", "conv3x3", "none")) -> MacroSpace:
    return MacroSpace(image_info(), num_stages=2, depths=(1, 2, 3), widths=(2, 4), operations=operations)


def trained_supernet(space: MacroSpace, plain: bool = False) -> MacroSupernet:
    """Its batch statistics are no longer the initial ones, nor the scales of its norms."""
    with seeded(0, "supernet"):
        supernet = space.build_supernet(SupernetOptions(plain=plain))
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    with torch.no_grad():
        supernet(IMAGES, [Gate.soft(torch.full(shape, 1 / shape[1])) for shape in supernet.gate_shapes])
    return supernet


def one_stage(**picks: str | int) -> tuple[MacroSpace, Architecture]:
    space = MacroSpace(image_info(), num_stages=1, depths=(1, 2, 4), widths=(2, 4, 8))
    return space, space.architecture_of({f"stage0.{k}" if k != "depth" else k: v for k, v in picks.items()})


def shapes_of(network: nn.Module) -> Counter[tuple[str, tuple[int, ...]]]:
    """What its entries, layers and end are, and the shapes they read."""
    found = Counter[tuple[str, tuple[int, ...]]]()
    layers = [module for module in network.modules() if isinstance(module, ResidualLayer)]
    whole = [*network.get_submodule("entries").children(), *layers, network.get_submodule("norm")]
    for module in whole:
        module.register_forward_pre_hook(lambda module, x: found.update([(str(module), tuple(x[0].shape))]))
    network.eval()(IMAGES)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_parts_under_an_architectures_picks_are_those_of_its_network(seed: int) -> None:
    space = all_operations()
    architecture = space.sample(random.Random(seed))
    supernet = space.build_supernet(SupernetOptions(plain=True))
    picked = {(k, 0, pick) for k, pick in enumerate(architecture.picks)}
    found = Counter[tuple[str, tuple[int, ...]]]()
    for part in supernet.parts(image_info(), len(IMAGES)):
        if picked.issuperset(part.picks):
            norm = next(iter(part.module.children()))  # an end is named by what it begins with
            named = norm if isinstance(norm, nn.BatchNorm2d) else part.module
            found[str(named), part.shape] += part.count
    assert found == shapes_of(space.build(architecture))


def test_the_latency_of_this_space_is_predicted_from_the_picks_that_decide_a_layer() -> None:
    space = small_space()
    table, _ = measure_table(
        space, image_info(), Conditions.here("cpu", threads=1, batch_size=1), num_networks=2
    )
    predict = table.predictor(space)
    few, many = (
        {"depth": depth, "stage0.channels": 4, "stage0.operation": "conv3x3"}
        | {"stage1.channels": 4, "stage1.operation": "conv3x3"}
        for depth in (2, 3)
    )
    layer = next(term.ms for term in table.terms if term.picks == ((0, 0, 1), (1, 0, 1), (2, 0, 1)))
    difference = predict(space.architecture_of(many)) - predict(space.architecture_of(few))
    assert difference == pytest.approx(layer)


@pytest.mark.parametrize(
    ("depth", "layers"), [(2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (8, (3, 3, 2)), (16, (6, 5, 5))]
)
def test_layer_k_of_l_is_in_stage_floor_of_k_s_over_l(depth: int, layers: tuple[int, ...]) -> None:
    space = MacroSpace(image_info(), num_stages=3, depths=(depth, 100))
    assert space.layers_of[0] == layers


def test_the_whole_space_has_six_depths_six_widths_and_ten_operations() -> None:
    space = MacroSpace(
        image_info(),
        depths=(2, 4, 6, 8, 12, 16),
        widths=(16, 32, 64, 128, 256, 512),
        operations=OPERATIONS,
    )
    assert space.size == 6 * (6 * 10) ** 3


def test_depth_is_one_choice_and_each_stage_has_two() -> None:
    names = [choice.name for choice in small_space().choices]
    assert names == [
        "depth",
        "stage0.channels",
        "stage0.operation",
        "stage1.channels",
        "stage1.operation",
    ]


def test_gates_are_named_after_their_choices() -> None:
    supernet = small_space().build_supernet(SupernetOptions())
    assert supernet.gate_names == tuple(choice.name for choice in small_space().choices)
    assert supernet.gate_shapes == ((1, 3), (1, 2), (1, 3), (1, 2), (1, 3))
    assert supernet.candidates[0] == ("1", "2", "3")


def test_a_network_has_the_stages_that_the_choices_say() -> None:
    space = small_space()
    network = space.build(
        space.architecture_of(
            {
                "depth": 3,
                "stage0.channels": 4,
                "stage0.operation": "conv3x3",
                "stage1.channels": 2,
                "stage1.operation": "skip_connect",
            }
        )
    )
    shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters() if weight.dim() == 4}
    assert shapes == {
        "entries.0.0.weight": (4, 3, 3, 3),
        "stages.0.0.operation.0.weight": (4, 4, 3, 3),
        "stages.0.1.operation.0.weight": (4, 4, 3, 3),
        "entries.1.0.weight": (2, 4, 3, 3),
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_in_all_stages_gives_finite_logits_and_gradients(operation: Operation) -> None:
    space = MacroSpace(image_info(), depths=(16,), widths=(4,), operations=(operation, "conv5x5"))
    with seeded(0, "network"):
        network = space.build(Architecture((0,) * 7))
    network(IMAGES).logsumexp(1).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    entry = network.get_parameter("entries.0.0.weight")
    assert entry.grad is not None
    assert entry.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [8, 64, 65, 224])
def test_stages_halve_what_the_stem_leaves(size: int) -> None:
    space = MacroSpace(image_info(size), depths=(3,), widths=(2,))
    network, sizes = space.build(Architecture((0,) * 7)), []
    for entry in network.entries:
        entry.register_forward_hook(lambda *arguments: sizes.append(arguments[2].shape[2]))
    network(images_of(space.info, 2))
    first = {8: 8, 64: 64, 65: 17, 224: 56}[size]
    assert sizes == [first, (first + 1) // 2, (first + 3) // 4]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_under_the_gates_of_any_architecture_it_computes_the_cut_out(training: bool, plain: bool) -> None:
    space, rng = all_operations(), random.Random(0)
    supernet = trained_supernet(space, plain).train(training)
    for _ in range(40):
        architecture = space.sample(rng)
        network = supernet.cut_out(architecture)
        with torch.no_grad():
            expected, actual = network(IMAGES), supernet(IMAGES, supernet.gates_of(architecture))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_soft_gates_that_are_sure_compute_the_cut_out(training: bool) -> None:
    space, rng = all_operations(), random.Random(1)
    supernet = trained_supernet(space).train(training)
    for _ in range(20):
        architecture = space.sample(rng)
        network = supernet.cut_out(architecture)
        gates = [Gate.soft(gate.weights) for gate in supernet.gates_of(architecture)]
        with torch.no_grad():
            torch.testing.assert_close(supernet(IMAGES, gates), network(IMAGES), atol=1e-5, rtol=0)


def test_a_cut_out_has_the_layers_of_the_network() -> None:
    space, rng = all_operations(), random.Random(0)
    supernet = space.build_supernet(SupernetOptions())
    for _ in range(10):
        architecture = space.sample(rng)
        cut, built = supernet.cut_out(architecture).state_dict(), space.build(architecture).state_dict()
        assert {name: tensor.shape for name, tensor in cut.items()} == {
            name: tensor.shape for name, tensor in built.items()
        }


def test_cutting_out_draws_no_random_numbers() -> None:
    space = all_operations()
    supernet = space.build_supernet(SupernetOptions())
    before = torch.random.get_rng_state()
    supernet.cut_out(space.sample(random.Random(0)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_hot_gates_compute_no_more_than_the_network_alone() -> None:
    space, rng = all_operations(), random.Random(0)
    supernet = space.build_supernet(SupernetOptions()).eval()
    image = images_of(space.info, 1)
    for _ in range(20):
        architecture = space.sample(rng)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            supernet(image, supernet.gates_of(architecture))
        assert counter.get_total_flops() // 2 == multiply_adds(space.build(architecture), space.info)


def straight_through(supernet: MacroSupernet, architecture: Architecture) -> tuple[list[Tensor], list[Gate]]:
    """Leaves, and gates of value one that pass their gradient to them."""
    hard = supernet.gates_of(architecture)
    leaves = [torch.full_like(gate.weights, 0.3).requires_grad_() for gate in hard]
    gates = [
        Gate(gate.weights + leaf - leaf.detach(), gate.active)
        for gate, leaf in zip(hard, leaves, strict=True)
    ]
    return leaves, gates


def test_straight_through_gates_compute_the_cut_out_and_get_a_gradient() -> None:
    space = all_operations()
    supernet = trained_supernet(space)
    architecture = Architecture((2, 1, 0, 2, 8, 0, 3))
    leaves, gates = straight_through(supernet, architecture)
    logits = supernet(IMAGES, gates)
    torch.testing.assert_close(logits, supernet.cut_out(architecture)(IMAGES), atol=1e-5, rtol=0)
    gradients = torch.autograd.grad(logits.square().sum(), leaves)
    for gradient, pick in zip(gradients, architecture.picks, strict=True):
        assert gradient[0].nonzero().flatten().tolist() == [pick]


def test_a_gate_whose_pick_computes_nothing_has_a_gradient_of_zero() -> None:
    space = all_operations()
    none = OPERATIONS.index("none")
    supernet = trained_supernet(space)
    leaves, gates = straight_through(supernet, Architecture((0, 0, none, 0, none, 0, 0)))
    gradients = torch.autograd.grad(supernet(IMAGES, gates).square().sum(), leaves)
    assert [bool(gradient.abs().sum()) for gradient in gradients[2::2]] == [False, False, False]


def between(supernet: MacroSupernet, gates: list[Gate]) -> tuple[Tensor, Tensor, Tensor]:
    """What the last norm reads and gives, and what the classifier reads."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
        for module in (supernet.norm, supernet.classifier)
    ]
    with torch.no_grad():
        supernet(IMAGES, gates)
    for hook in hooks:
        hook.remove()
    return seen[0], seen[1], seen[2]


def test_a_depth_gate_mixes_the_ends_of_a_stage() -> None:
    space, architecture = one_stage(depth=1, channels=8, operation="conv3x3")
    supernet = trained_supernet(space).eval()
    gates = supernet.gates_of(architecture)
    ends = [between(supernet, [Gate.one_hot([pick], 3, IMAGES), *gates[1:]])[0] for pick in range(3)]
    mixed = between(supernet, [Gate.soft(torch.tensor([[0.5, 0.2, 0.3]])), *gates[1:]])[0]
    torch.testing.assert_close(mixed, 0.5 * ends[0] + 0.2 * ends[1] + 0.3 * ends[2])


def test_an_operation_gate_sums_what_the_operations_add() -> None:
    space, architecture = one_stage(depth=1, channels=8, operation="conv3x3")
    supernet = trained_supernet(space).eval()
    depth, channels, _ = supernet.gates_of(architecture)
    candidates = len(space.operations)
    state, *ends = (
        between(supernet, [depth, channels, Gate(torch.ones(1, candidates), (active,))])[0]
        for active in ((), (0,), (4,))
    )
    weights = torch.zeros(1, candidates)
    weights[0, 0], weights[0, 4] = 0.5, 0.2
    mixed = between(supernet, [depth, channels, Gate(weights, ((0, 4),))])[0]
    torch.testing.assert_close(mixed, state + 0.5 * (ends[0] - state) + 0.2 * (ends[1] - state))


def test_a_width_gate_scales_each_channel_by_the_widths_that_have_it() -> None:
    space, architecture = one_stage(depth=1, channels=8, operation="conv3x3")
    supernet = trained_supernet(space).eval()
    depth, _, operation = supernet.gates_of(architecture)
    _, normed, features = between(supernet, [depth, Gate.soft(torch.tensor([[0.2, 0.3, 0.5]])), operation])
    mask = torch.tensor([1.0, 1.0, 0.8, 0.8, 0.5, 0.5, 0.5, 0.5]).view(1, 8, 1, 1)
    torch.testing.assert_close(features, mask * normed.relu())


def test_two_active_widths_compute_the_wider_one_alone() -> None:
    space, architecture = one_stage(depth=1, channels=8, operation="conv3x3")
    supernet = trained_supernet(space).eval()
    depth, _, operation = supernet.gates_of(architecture)
    weights = torch.tensor([[1.0, 0.0, 7.0]])
    assert between(supernet, [depth, Gate(weights, ((0, 1),)), operation])[0].shape[1] == 4


def test_one_spelling_stands_for_each_network() -> None:
    space = small_space()
    sizes = [range(len(choice.options)) for choice in space.choices]
    spellings = [Architecture(picks) for picks in itertools.product(*sizes)]
    networks = {
        tuple((stage.width, stage.num_working, stage.num_working and stage.operation) for stage in stages)
        for stages in map(space.stages, spellings)
    }
    assert len({space.canonical(spelling) for spelling in spellings}) == len(networks)


@pytest.mark.parametrize("operations", [("skip_connect", "conv3x3", "none"), ("conv3x3", "skip_connect")])
def test_a_canonical_spelling_is_the_same_network(operations: tuple[Operation, ...]) -> None:
    space, rng = small_space(operations), random.Random(0)
    supernet = trained_supernet(space).eval()
    for _ in range(50):
        architecture = space.sample(rng)
        canonical = space.canonical(architecture)
        assert canonical.picks <= architecture.picks
        with torch.no_grad():
            expected = supernet.cut_out(architecture)(IMAGES)
            assert torch.equal(supernet.cut_out(canonical)(IMAGES), expected)


def test_the_operation_of_an_empty_stage_is_the_first_in_the_canonical_spelling() -> None:
    space = small_space()
    assert space.canonical(Architecture((0, 1, 1, 1, 1))) == Architecture((0, 1, 1, 1, 0))


def test_discretising_takes_the_strongest_candidate_of_every_gate() -> None:
    space = small_space()
    supernet = space.build_supernet(SupernetOptions())
    weights = [
        torch.tensor([[0.2, 0.3, 0.5]]),
        torch.tensor([[0.4, 0.6]]),
        torch.tensor([[0.1, 0.8, 0.1]]),
        torch.tensor([[0.7, 0.3]]),
        torch.tensor([[0.5, 0.3, 0.2]]),
    ]
    assert space.options_of(supernet.discretise(weights)) == {
        "depth": 3,
        "stage0.channels": 4,
        "stage0.operation": "conv3x3",
        "stage1.channels": 2,
        "stage1.operation": "skip_connect",
    }


def test_a_deeper_network_of_the_same_stages_costs_more() -> None:
    space = small_space()
    costs = [cost_of(space.build(Architecture((pick, 0, 1, 0, 1))), space.info) for pick in range(3)]
    assert costs[0].parameters < costs[1].parameters < costs[2].parameters


def test_a_drawing_is_the_chain_of_stages() -> None:
    space = small_space()
    graph = space.cells(Architecture((1, 1, 1, 0, 2)))["network"]
    assert graph.edges == (
        ("image", "stage0", "4 channels, 1 x conv3x3"),
        ("stage0", "stage1", "2 channels, no layers"),
    )
    assert graph.outputs == ("stage1",)


def test_partial_channels_are_refused_with_the_spaces_that_have_them() -> None:
    with pytest.raises(UnsupportedError, match=r"space=darts or space=nasbench201"):
        small_space().build_supernet(SupernetOptions(partial_channels=4))


def test_an_auxiliary_head_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(UnsupportedError, match=r"recipe\.auxiliary_weight=0"):
        small_space().build(Architecture((0,) * 5), auxiliary_head=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depths": []}, r"space\.depths=\[\]: must be a list .* at least 1 entries"),
        ({"widths": [32, 16]}, r"space\.widths=\[32, 16\].* \(in ascending order, none twice\)"),
        ({"widths": [0, 16]}, r"space\.widths=\[0, 16\]: must be a list \(a whole number at least 1 each\)"),
        ({"depths": [4, 4]}, r"space\.depths=\[4, 4\].* \(in ascending order, none twice\)"),
        ({"operations": []}, r"space\.operations=\[\]: must be a list .* at least 1 entries"),
        ({"operations": ["conv9x9"]}, r"conv9x9.*one of conv3x3, conv5x5, .*, none"),
        ({"operations": ["conv3x3", "conv3x3"]}, r"\(none twice\)"),
        ({"operations": ["none"]}, r"no layer would compute anything"),
        ({"depths": [1, 2]}, r"the deepest network has fewer layers than the 3 stages"),
        ({"num_stages": 6}, r"space\.num_stages=6: must be a whole number at least 1 and at most 5"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_allowed(settings: dict[str, object], said: str) -> None:
    node = OmegaConf.create({"_target_": "nas_cli.spaces.macro.MacroSpace", **settings})
    with pytest.raises(ConfigError, match=said):
        build(SearchSpace, node, image_info())
