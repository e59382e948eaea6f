"""The cell of mixed nodes: fast is plain, only what is active runs, and what is cut out of it."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas_cli.layers.node_cell import NodeCell, NodePlan
from nas_cli.layers.sliced import OPERATIONS
from nas_cli.seeds import seeded
from nas_cli.supernet import Gate
from tests.layers.cells import assert_close, assert_same_statistics, gradients, loss_of

CHANNELS = 4
PLAN = NodePlan(2, 3, OPERATIONS)
SHAPES = [(1, len(names)) for names in PLAN.gate_candidates]


def both_forms() -> tuple[NodeCell, NodeCell]:
    """The plain and the fast cell in float64, with the same weights and (not initial) batch statistics."""
    with seeded(0, "cell"):
        plain, fast = (NodeCell(PLAN, CHANNELS, plain=form).double() for form in (True, False))
        for name, buffer in plain.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def images(size: int = 8, layout: torch.memory_format = torch.channels_last) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(3, CHANNELS, size, size, dtype=torch.float64, generator=generator)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for _ in range(PLAN.num_inputs)
    ]


def gate_weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in SHAPES]


def soft_gates() -> list[Gate]:
    return [Gate.soft(weights) for weights in gate_weights()]


def active_gates(active: Sequence[tuple[int, ...]]) -> list[Gate]:
    return [Gate(weights, (row,)) for weights, row in zip(gate_weights(), active, strict=True)]


def path_gates(picks: Sequence[tuple[int, str]]) -> list[Gate]:
    """One-hot gates of weight 1."""
    indices = [index for source, name in picks for index in (source, OPERATIONS.index(name))]
    like = torch.empty((), dtype=torch.float64)
    return [Gate.one_hot([pick], count, like) for pick, (_, count) in zip(indices, SHAPES, strict=True)]


def assert_same(plain: nn.Module, fast: nn.Module, inputs: Sequence[Tensor], gates: Sequence[Gate]) -> None:
    """Nodes, all gradients and all batch statistics agree to 1e-12 of their size."""
    nodes, found = gradients(plain, inputs, gates)
    fast_nodes, fast_found = gradients(fast, inputs, gates)
    for node, fast_node in zip(nodes, fast_nodes, strict=True):
        assert_close(fast_node, node, "a node")
    for name, gradient in found.items():
        assert_close(fast_found[name], gradient, name)
    assert_same_statistics(plain, fast)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("size", [8, 5, 2])
def test_fast_is_plain_under_soft_gates(size: int, layout: torch.memory_format) -> None:
    assert_same(*both_forms(), images(size, layout), soft_gates())


def test_fast_is_plain_in_evaluation_mode() -> None:
    plain, fast = both_forms()
    assert_same(plain.eval(), fast.eval(), images(), soft_gates())


@pytest.mark.parametrize("name", OPERATIONS[:-1])
def test_fast_is_plain_with_one_state_and_one_operation_a_node(name: str) -> None:
    k = OPERATIONS.index(name)
    assert_same(*both_forms(), images(), active_gates([(1,), (k,), (2,), (k,), (0,), (k,)]))


def test_fast_is_plain_with_some_states_and_some_operations() -> None:
    active = [(0, 1), (0, 5, 9), (0, 2), (3, 6), (1, 2, 3), (2, 7, 8)]
    assert_same(*both_forms(), images(), active_gates(active))


@pytest.mark.parametrize("picks", [[(0, "conv3x3"), (2, "skip_connect"), (1, "sep_conv5x5")]])
def test_fast_is_plain_under_one_hot_gates(picks: list[tuple[int, str]]) -> None:
    assert_same(*both_forms(), images(), path_gates(picks))


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_a_node_is_the_weighted_sum_of_operations_of_a_weighted_sum_of_states(plain: bool) -> None:
    plan = NodePlan(2, 1, ("skip_connect", "max_pool3x3"))
    cell = NodeCell(plan, 1, plain=plain)
    gates = [Gate.soft(torch.tensor([[0.5, 2.0]])), Gate.soft(torch.tensor([[10.0, 1.0]]))]
    first = torch.zeros(1, 1, 3, 3)
    first[0, 0, 1, 1] = 2.0
    (node,) = cell([first, torch.ones(1, 1, 3, 3)], gates)
    expected = torch.full((3, 3), 10 * 2.0 + 3.0)  # the input is 2, and 3 in the middle
    expected[1, 1] = 10 * 3.0 + 3.0
    assert torch.equal(node[0, 0], expected)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_what_is_not_active_is_not_read(plain: bool) -> None:
    cell = both_forms()[0 if plain else 1]
    gates = active_gates([(1,), (6,), (1, 2), (3,), (3,), (6,)])
    with torch.no_grad():
        for gate in gates:
            idle = [k for k in range(gate.weights.shape[1]) if k not in gate.active[0]]
            gate.weights[0, idle] = torch.nan
        for name, parameter in cell.named_parameters():
            if ".operations.3." not in name:
                parameter.fill_(torch.nan)
    inputs = images()
    inputs[0] = torch.full_like(inputs[0], torch.nan)
    assert all(node.isfinite().all() for node in cell(inputs, gates))


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_a_node_of_none_and_a_node_without_a_state_are_zero(plain: bool) -> None:
    cell = both_forms()[0 if plain else 1]
    first, second, third = cell(images(), active_gates([(0,), (9,), (), (0,), (0,), ()]))
    assert first.shape == (3, CHANNELS, 8, 8)
    assert not any(node.any() for node in (first, second, third))


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shift", range(4))
def test_what_is_cut_out_is_the_cell_under_one_hot_gates(plain: bool, training: bool, shift: int) -> None:
    cell = both_forms()[0 if plain else 1].train(training)
    picks = [(k % 2, OPERATIONS[(3 * k + shift) % len(OPERATIONS)]) for k in range(PLAN.num_nodes)]
    discrete = cell.cut_out(picks)  # before the pass, which moves the running statistics
    inputs = images()
    for node, expected in zip(discrete(inputs), cell(inputs, path_gates(picks)), strict=True):
        assert_close(node, expected, "a node")


def test_second_derivatives_are_those_of_the_plain_cell() -> None:
    """The exact second-order product of DARTS: the gates' gradient after a step of the weights."""
    inputs, gates = [tensor.detach() for tensor in images()], soft_gates()
    products = []
    for cell in both_forms():
        parameters: dict[str, Tensor] = dict(cell.named_parameters())
        loss = loss_of(functional_call(cell, parameters, (inputs, gates)))
        steps = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        moved = {
            name: parameter - 1e-3 * step
            for (name, parameter), step in zip(parameters.items(), steps, strict=True)
        }
        loss = loss_of(functional_call(cell, moved, (inputs, gates)))
        products.append(torch.autograd.grad(loss, [gate.weights for gate in gates]))
    for actual, expected in zip(products[1], products[0], strict=True):
        assert_close(actual, expected, "the second-order product")


def test_channels_last_images_stay_channels_last() -> None:
    fast = NodeCell(PLAN, CHANNELS, plain=False)
    gates = [Gate.soft(gate.weights.float()) for gate in soft_gates()]
    nodes = fast([tensor.float() for tensor in images()], gates)
    assert all(node.is_contiguous(memory_format=torch.channels_last) for node in nodes)


def test_under_autocast_the_fast_nodes_keep_the_precision_of_the_gates() -> None:
    fast = NodeCell(PLAN, CHANNELS, plain=False)
    inputs = [tensor.detach().float() for tensor in images()]
    gates = [Gate.soft(gate.weights.detach().float().requires_grad_()) for gate in soft_gates()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nodes = fast(inputs, gates)
    assert {node.dtype for node in nodes} == {torch.float32}
    loss = torch.stack([node.sum() for node in nodes]).sum()
    found = torch.autograd.grad(loss, [*fast.parameters(), *(gate.weights for gate in gates)])
    assert all(gradient.isfinite().all() for gradient in found)
