"""Small cells in both forms, and one comparison of everything they compute."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_cli.layers.cell import CellPlan, Edge, SupernetCell, make_cell
from nas_cli.seeds import seeded
from nas_cli.supernet import Gate

CHANNELS = 4
DARTS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NASNET = (
    "skip_connect",
    "bottleneck_conv_1x3_3x1",
    "bottleneck_conv_1x7_7x1",
    "bottleneck_dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "nor_conv_1x1",
    "bottleneck_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
NASBENCH201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def darts_plan(stride: int) -> CellPlan:
    """Two inputs, two nodes, each joined to all states before it."""
    ends = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    edges = tuple(Edge(source, target, stride if source < 2 else 1) for source, target in ends)
    return CellPlan(2, 2, edges, DARTS, pool_norm=True)


def nasbench201_plan(stride: int) -> CellPlan:
    ends = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    edges = tuple(Edge(source, target, stride if source < 1 else 1) for source, target in ends)
    return CellPlan(1, 3, edges, NASBENCH201, pool_norm=False)


def nasnet_plan(stride: int) -> CellPlan:
    """Two inputs, two nodes, two edges from each state to each node after it."""
    ends = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    edges = tuple(
        Edge(source, target, stride if source < 2 else 1, slot) for source, target in ends for slot in (0, 1)
    )
    return CellPlan(2, 2, edges, NASNET, pool_norm=False)


def both_forms(
    plan: CellPlan, partial_channels: int = 1, channels: int = CHANNELS
) -> tuple[SupernetCell, SupernetCell]:
    """The plain and the fast cell in float64, with the same weights and (not initial) batch statistics."""
    with seeded(0, "cell"):
        plain, fast = (
            make_cell(plan, channels, plain=form, partial_channels=partial_channels).double()
            for form in (True, False)
        )
        for name, buffer in plain.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def images(
    plan: CellPlan, size: int, *, channels_last: bool = True, channels: int = CHANNELS
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(3, channels, size, size, dtype=torch.float64, generator=generator)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for _ in range(plan.num_inputs)
    ]


def soft_gates(plan: CellPlan) -> list[Gate]:
    return [Gate.soft(weights) for weights in gate_weights(plan)]


def gate_weights(plan: CellPlan) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = [(len(plan.edges_from(source)), len(plan.candidates)) for source in plan.sources]
    return [torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def active_gates(plan: CellPlan, active: Sequence[tuple[int, ...]]) -> list[Gate]:
    """Gates that run the candidates `active[e]` of edge e alone."""
    rows = dict(zip(plan.edges, active, strict=True))
    return [
        Gate(weights, tuple(rows[edge] for edge in plan.edges_from(source)))
        for source, weights in zip(plan.sources, gate_weights(plan), strict=True)
    ]


def path_gates(plan: CellPlan, picks: Sequence[str | None]) -> list[Gate]:
    """One-hot gates of weight 1."""
    chosen = dict(zip(plan.edges, picks, strict=True))
    gates = []
    for source in plan.sources:
        row_picks = [chosen[edge] for edge in plan.edges_from(source)]
        indices = [None if pick is None else plan.candidates.index(pick) for pick in row_picks]
        gates.append(Gate.one_hot(indices, len(plan.candidates), torch.empty((), dtype=torch.float64)))
    return gates


def loss_of(nodes: Sequence[Tensor]) -> Tensor:
    """A number that depends on every pixel of every node differently."""
    total = torch.zeros((), dtype=torch.float64)
    for index, node in enumerate(nodes):
        weights = torch.linspace(-1, 1, node.numel(), dtype=torch.float64).reshape(node.shape)
        total = total + (node * weights).sum() + (index + 1) * node.pow(2).mean()
    return total


def gradients(
    cell: nn.Module, inputs: Sequence[Tensor], gates: Sequence[Gate]
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """The nodes, and the gradients of inputs, gates and parameters by name."""
    nodes = cell(inputs, gates)
    named = {f"input {k}": tensor for k, tensor in enumerate(inputs)}
    named |= {f"gate {k}": gate.weights for k, gate in enumerate(gates) if gate.weights.requires_grad}
    named |= dict(cell.named_parameters())
    found = torch.autograd.grad(loss_of(nodes), list(named.values()), allow_unused=True)
    return nodes, dict(zip(named, found, strict=True))


def assert_same(
    plain: SupernetCell, fast: SupernetCell, inputs: Sequence[Tensor], gates: Sequence[Gate]
) -> None:
    """Nodes and batch statistics agree to 1e-12 of their size, gradients to that of the largest of them."""
    nodes, found = gradients(plain, inputs, gates)
    fast_nodes, fast_found = gradients(fast, inputs, gates)
    for node, fast_node in zip(nodes, fast_nodes, strict=True):
        assert_close(fast_node, node, "a node")
    largest = max(gradient.abs().max().item() for gradient in found.values() if gradient is not None)
    for name, gradient in found.items():
        assert_close(fast_found[name], gradient, name, largest)
    assert_same_statistics(plain, fast)


def assert_same_statistics(plain: nn.Module, fast: nn.Module) -> None:
    """Of all batch normalisations; the fast form does not count the batches."""
    statistics = dict(fast.named_buffers())
    for name, buffer in plain.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert_close(statistics[name], buffer, name)


def assert_close(actual: Tensor | None, expected: Tensor | None, name: str, size: float = 1.0) -> None:
    if actual is None or expected is None:
        present = actual if expected is None else expected
        assert present is None or not present.any(), name
        return
    size = max(1.0, size, expected.abs().max().item())
    torch.testing.assert_close(
        actual, expected, rtol=0.0, atol=1e-12 * size, msg=lambda message: f"{name}: {message}"
    )
