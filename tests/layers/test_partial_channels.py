"""Channels that pass by the candidates: which, how much of them, and in what order they leave."""

import pytest
import torch
from torch import Tensor, nn

from nas_cli.errors import UnsupportedError
from nas_cli.layers.cell import CellPlan, Edge, make_cell
from nas_cli.layers.operations import Zero
from nas_cli.layers.partial_channels import PartialOperation, edge_weights, pooled_to, shuffle
from nas_cli.supernet import Gate

ONE_EDGE = CellPlan(1, 1, (Edge(0, 1, 1),), ("none", "skip_connect"), pool_norm=False)


def column(*values: float) -> Tensor:
    """One pixel, whose channels have these values."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_channels_are_dealt_out_group_by_group() -> None:
    shuffled = shuffle(column(0, 1), column(2, 3, 4, 5, 6, 7), partial_channels=4)
    assert shuffled.flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_an_edge_passes_the_channels_that_its_candidate_does_not_see() -> None:
    edge = PartialOperation(Zero(1), partial_channels=2, stride=1)
    assert edge(column(1, 2, 3, 4)).flatten().tolist() == [0, 3, 0, 4]


def test_passing_channels_are_pooled_by_the_largest_of_four_where_the_size_halves() -> None:
    passing = pooled_to(2, torch.arange(9.0).view(1, 1, 3, 3))
    assert passing.tolist() == [[[[4, 5], [7, 8]]]]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_the_sum_of_a_row_weighs_what_passes_and_its_candidates_what_is_seen(plain: bool) -> None:
    cell = make_cell(ONE_EDGE, 4, plain=plain, partial_channels=2)
    (node,) = cell([column(1, 2, 3, 4)], [Gate.soft(torch.tensor([[0.5, 0.25]]))])
    torch.testing.assert_close(node.flatten(), torch.tensor([0.25, 2.25, 0.5, 3.0]))


def test_the_weight_of_an_edge_is_the_sum_of_its_active_candidates() -> None:
    gate = Gate(torch.tensor([[0.5, 0.25, torch.nan], [1.0, 2.0, 3.0]]), ((0, 1), ()))
    assert [weight.item() for weight in edge_weights(gate)] == [0.75, 0.0]


def test_an_edge_of_the_candidate_none_passes_what_it_does_not_see() -> None:
    cell = make_cell(ONE_EDGE, 4, plain=False, partial_channels=2)
    (node,) = cell.cut_out(["none"])([column(1, 2, 3, 4)])
    assert node.flatten().tolist() == [0, 3, 0, 4]


def test_the_candidates_have_weights_for_the_channels_they_see() -> None:
    plan = CellPlan(1, 1, (Edge(0, 1, 1),), ("nor_conv_1x1",), pool_norm=False)
    kernels = [p for p in make_cell(plan, 8, plain=False, partial_channels=4).parameters() if p.dim() == 4]
    assert [tuple(kernel.shape) for kernel in kernels] == [(2, 2, 1, 1)]


def test_a_shuffled_node_stays_channels_last() -> None:
    cell = make_cell(ONE_EDGE, 4, plain=False, partial_channels=2)
    state = torch.ones(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    (node,) = cell([state], [Gate.soft(torch.tensor([[0.5, 0.25]]))])
    assert node.is_contiguous(memory_format=torch.channels_last)


def test_channels_without_equal_parts_are_refused_with_what_to_set() -> None:
    with pytest.raises(UnsupportedError, match=r"partial_channels=4.*6 channels.*multiple of 4"):
        make_cell(ONE_EDGE, 6, plain=False, partial_channels=4)


def test_a_partial_operation_is_a_module_with_the_candidates_weights() -> None:
    edge = PartialOperation(nn.Conv2d(1, 1, 1, bias=False), partial_channels=2, stride=1)
    assert [name for name, _ in edge.named_parameters()] == ["operation.weight"]
