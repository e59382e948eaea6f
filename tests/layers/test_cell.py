"""The fast cell computes what the plain one defines, and what is cut out of it."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from nas_cli.layers import joint_state, pointwise, products
from nas_cli.layers.cell import CellPlan, DiscreteCell, make_cell
from nas_cli.layers.operations import make_operation
from nas_cli.supernet import Gate
from tests.layers.cells import (
    CHANNELS,
    DARTS,
    active_gates,
    assert_close,
    assert_same,
    both_forms,
    darts_plan,
    gate_weights,
    images,
    loss_of,
    nasbench201_plan,
    nasnet_plan,
    path_gates,
    soft_gates,
)

PLANS = {
    "darts normal": darts_plan(1),
    "darts reduction": darts_plan(2),
    "nasbench201": nasbench201_plan(1),
    "nasbench201 of stride 2": nasbench201_plan(2),
    "nasnet normal": nasnet_plan(1),
    "nasnet reduction": nasnet_plan(2),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
every_part = pytest.mark.parametrize("partial_channels", [1, 2], ids=["all_channels", "half_of_the_channels"])
either_way = pytest.mark.parametrize("stacks", [0, 1 << 60], ids=["apart", "together"], indirect=True)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """From how many values on they are convolved edge by edge."""
    monkeypatch.setattr(joint_state, "APART", request.param)


@every_plan
@every_part
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_fast_is_plain_under_soft_gates(plan: CellPlan, partial_channels: int, channels_last: bool) -> None:
    assert_same(
        *both_forms(plan, partial_channels), images(plan, 8, channels_last=channels_last), soft_gates(plan)
    )


@every_plan
@pytest.mark.parametrize("size", [8, 4, 5])
@pytest.mark.parametrize("channels", [CHANNELS, 16])
@either_way
@pytest.mark.usefixtures("stacks")
def test_fast_is_plain_whether_stacks_are_together_or_apart(plan: CellPlan, size: int, channels: int) -> None:
    assert_same(*both_forms(plan, channels=channels), images(plan, size, channels=channels), soft_gates(plan))


@every_plan
@pytest.mark.parametrize("channels", [CHANNELS, 32])
@either_way
@pytest.mark.usefixtures("stacks")
def test_fast_is_plain_where_onednn_multiplies(
    monkeypatch: pytest.MonkeyPatch, plan: CellPlan, channels: int
) -> None:
    """oneDNN's product has no float64: torch's stands in for that call, which has a test of its own."""
    monkeypatch.setattr(products, "_prefers_onednn", lambda *_: not torch.is_grad_enabled())
    monkeypatch.setattr(pointwise, "linear", _linear)
    assert_same(*both_forms(plan, channels=channels), images(plan, 8, channels=channels), soft_gates(plan))


def _linear(pixels: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return pixels @ matrix if bias is None else pixels @ matrix + bias


@every_plan
@every_part
@pytest.mark.parametrize("size", [4, 5, 2])
def test_fast_is_plain_on_small_and_odd_images(plan: CellPlan, partial_channels: int, size: int) -> None:
    assert_same(*both_forms(plan, partial_channels), images(plan, size), soft_gates(plan))


@every_plan
@every_part
@either_way
@pytest.mark.usefixtures("stacks")
def test_fast_is_plain_in_evaluation_mode(plan: CellPlan, partial_channels: int) -> None:
    plain, fast = both_forms(plan, partial_channels)
    assert_same(plain.eval(), fast.eval(), images(plan, 8), soft_gates(plan))


@every_plan
@every_part
@pytest.mark.parametrize("shift", range(3))
def test_fast_is_plain_with_one_candidate_an_edge(plan: CellPlan, partial_channels: int, shift: int) -> None:
    picks = [((k * 3 + shift) % len(plan.candidates),) for k in range(len(plan.edges))]
    assert_same(*both_forms(plan, partial_channels), images(plan, 8), active_gates(plan, picks))


@every_plan
@every_part
@either_way
@pytest.mark.usefixtures("stacks")
def test_fast_is_plain_with_some_candidates_and_some_edges(plan: CellPlan, partial_channels: int) -> None:
    active = [
        tuple(k for k in range(len(plan.candidates)) if (k + row) % 3) for row in range(len(plan.edges))
    ]
    active[1] = ()
    assert_same(*both_forms(plan, partial_channels), images(plan, 8), active_gates(plan, active))


@every_plan
@every_part
@either_way
@pytest.mark.usefixtures("stacks")
def test_under_autocast_a_fast_cell_keeps_full_precision(plan: CellPlan, partial_channels: int) -> None:
    cell = both_forms(plan, partial_channels)[1].float()
    inputs = [batch.detach().float().requires_grad_() for batch in images(plan, 8)]
    gates = [Gate(gate.weights.float(), gate.active) for gate in soft_gates(plan)]
    expected = cell(inputs, gates)
    with torch.autocast("cpu", torch.bfloat16):
        nodes = cell(inputs, gates)
        loss = loss_of(nodes)
    for node, exact in zip(nodes, expected, strict=True):
        torch.testing.assert_close(node, exact)
    found = torch.autograd.grad(loss, inputs)
    for gradient, exact in zip(found, torch.autograd.grad(loss_of(expected), inputs), strict=True):
        torch.testing.assert_close(gradient, exact, atol=1e-4, rtol=1e-3)


@every_part
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_a_candidate_that_is_not_active_is_not_read(plain: bool, partial_channels: int) -> None:
    plan = darts_plan(1)
    cell = both_forms(plan, partial_channels)[0 if plain else 1]
    active = [(DARTS.index("sep_conv_3x3"),)] * len(plan.edges)
    gates = active_gates(plan, active)
    with torch.no_grad():
        for gate in gates:
            gate.weights[:, DARTS.index("skip_connect")] = torch.nan
        for name, parameter in cell.named_parameters():
            if ".5." in name or ".6." in name or ".7." in name:
                parameter.fill_(torch.nan)
    assert all(node.isfinite().all() for node in cell(images(plan, 8), gates))


@every_plan
@every_part
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_what_is_cut_out_is_the_cell_under_one_hot_gates(
    plan: CellPlan, partial_channels: int, plain: bool, training: bool
) -> None:
    cell = both_forms(plan, partial_channels)[0 if plain else 1].train(training)
    names = [*plan.candidates, None]
    picks = [names[(5 * k + 3) % len(names)] for k in range(len(plan.edges))]
    inputs = images(plan, 8)
    discrete = cell.cut_out(picks)  # before the pass, which moves the running statistics
    for node, expected in zip(discrete(inputs), cell(inputs, path_gates(plan, picks)), strict=True):
        assert_close(node, expected, "a node")


def test_what_is_cut_out_has_weights_of_its_own() -> None:
    plan = darts_plan(1)
    _, fast = both_forms(plan)
    discrete = fast.cut_out(["sep_conv_3x3"] * len(plan.edges))
    kept = {tensor.data_ptr() for tensor in fast.state_dict().values()}
    assert not kept & {tensor.data_ptr() for tensor in discrete.state_dict().values()}


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_a_node_without_edges_is_zero_and_of_the_nodes_size(plain: bool) -> None:
    plan = darts_plan(2)
    cell = both_forms(plan)[0 if plain else 1]
    picks = [None, None, None, "skip_connect", "avg_pool_3x3"]
    inputs = images(plan, 8)
    for first, _ in (cell(inputs, path_gates(plan, picks)), cell.cut_out(picks)(inputs)):
        assert first.shape == (3, CHANNELS, 4, 4)
        assert not first.any()


def test_a_discrete_cell_sums_the_operations_that_arrive() -> None:
    double = make_operation("skip_connect", CHANNELS, 1, affine=True, pool_norm=False)
    cell = DiscreteCell(2, 2, [(0, 2, double), (1, 2, double), (2, 3, double), (0, 3, double)])
    one, two = torch.ones(1, CHANNELS, 2, 2), torch.full((1, CHANNELS, 2, 2), 2.0)
    first, second = cell([one, two])
    assert (first == 3).all()
    assert (second == 4).all()


def test_a_discrete_cell_gives_the_states_that_are_its_outputs() -> None:
    double = make_operation("skip_connect", CHANNELS, 1, affine=True, pool_norm=False)
    cell = DiscreteCell(2, 2, [(0, 2, double), (0, 2, double), (2, 3, double)], outputs=(1, 3))
    one, two = torch.ones(1, CHANNELS, 2, 2), torch.full((1, CHANNELS, 2, 2), 3.0)
    last, node = cell([one, two])
    assert (last == 3).all()
    assert (node == 2).all()


def test_rows_that_arrive_at_one_slot_are_a_group() -> None:
    # Gates 0 and 1 are the inputs', with rows to both slots of node 2 and of node 3; gate 2 is node 2's.
    groups = nasnet_plan(1).row_groups
    assert groups == (((0, 0), (1, 0)), ((0, 1), (1, 1)), ((0, 2), (1, 2), (2, 0)), ((0, 3), (1, 3), (2, 1)))


@every_plan
@every_part
@either_way
@pytest.mark.usefixtures("stacks")
def test_second_derivatives_are_those_of_the_plain_cell(plan: CellPlan, partial_channels: int) -> None:
    """The exact second-order product of DARTS: the gates' gradient after a step of the weights."""
    plain, fast = both_forms(plan, partial_channels)
    inputs = [tensor.detach() for tensor in images(plan, 8)]
    gates = soft_gates(plan)
    weights = [gate.weights for gate in gates]
    products = []
    for cell in (plain, fast):
        parameters: dict[str, Tensor] = dict(cell.named_parameters())
        loss = loss_of(functional_call(cell, parameters, (inputs, gates)))
        steps = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        moved = {
            name: parameter - 1e-3 * step
            for (name, parameter), step in zip(parameters.items(), steps, strict=True)
        }
        products.append(torch.autograd.grad(loss_of(functional_call(cell, moved, (inputs, gates))), weights))
    for actual, expected in zip(products[1], products[0], strict=True):
        assert_close(actual, expected, "the second-order product")


@every_plan
@either_way
@pytest.mark.usefixtures("stacks")
def test_the_fast_cell_is_twice_differentiable(plan: CellPlan) -> None:
    _, fast = both_forms(plan)
    inputs = [tensor.detach() for tensor in images(plan, 4)]
    weights = gate_weights(plan)
    kernel = next(parameter for name, parameter in fast.named_parameters() if parameter.dim() == 4)
    name = next(name for name, parameter in fast.named_parameters() if parameter is kernel)

    def loss(first: Tensor, kernel: Tensor) -> Tensor:
        gates = [Gate.soft(first), *(Gate.soft(other.detach()) for other in weights[1:])]
        return loss_of(functional_call(fast, {name: kernel}, (inputs, gates)))

    arguments = (weights[0], kernel.detach().clone().requires_grad_())
    assert torch.autograd.gradgradcheck(loss, arguments, fast_mode=True, atol=1e-4)


def test_gradients_of_the_gates_alone_compute_none_of_the_weights() -> None:
    plan = darts_plan(1)
    _, fast = both_forms(plan)
    gates = soft_gates(plan)
    fast.requires_grad_(False)
    loss = loss_of(fast([tensor.detach() for tensor in images(plan, 8)], gates))
    with _Count() as counter:
        torch.autograd.grad(loss, [gate.weights for gate in gates])
    assert counter.calls_with_weights == 0


def test_channels_last_images_stay_channels_last() -> None:
    plan = darts_plan(1)
    fast = make_cell(plan, CHANNELS, plain=False)
    inputs = [tensor.float() for tensor in images(plan, 8)]
    gates = [Gate.soft(gate.weights.float()) for gate in soft_gates(plan)]
    assert all(node.is_contiguous(memory_format=torch.channels_last) for node in fast(inputs, gates))


class _Count(TorchDispatchMode):
    """How many backward convolutions compute a gradient of weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls_with_weights = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        if function is torch.ops.aten.convolution_backward.default:
            self.calls_with_weights += arguments[-1][1]
        return function(*arguments, **(keywords or {}))
