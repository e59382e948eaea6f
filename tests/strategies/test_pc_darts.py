"""PC-DARTS: edge normalisation, and what it asks of the supernet."""

import pytest
import torch

from nas_cli.errors import UnsupportedError
from nas_cli.strategies.pc_darts import PcDarts
from tests.strategies.small import small_problem


def test_the_gates_of_a_node_sum_to_one_and_those_of_a_row_to_its_edge() -> None:
    pc_darts = PcDarts(small_problem(channels=4))
    pc_darts.edge_logits[2].data = torch.tensor([0.5, 0.3, 0.2]).log()  # node 3 of three edges
    sums = [weights.sum(1).tolist() for weights in pc_darts.weights()]
    assert [sums[gate][row] for gate, row in pc_darts.supernet.row_groups[2]] == pytest.approx(
        [0.5, 0.3, 0.2]
    )
    for group in pc_darts.supernet.row_groups:
        assert sum(sums[gate][row] for gate, row in group) == pytest.approx(1.0)


def test_the_candidates_of_an_edge_share_it_by_their_softmax() -> None:
    pc_darts = PcDarts(small_problem(channels=4))
    pc_darts.logits[0].data[0] = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]).log()
    torch.testing.assert_close(pc_darts.weights()[0][0], torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]))


def test_edge_logits_learn_with_the_gate_logits() -> None:
    pc_darts = PcDarts(small_problem(channels=4))
    before = [edge.detach().clone() for edge in pc_darts.edge_logits]
    pc_darts.step(0, *next(iter(pc_darts.batches(0, 1))))
    moved = [not torch.equal(*pair) for pair in zip(before, pc_darts.edge_logits, strict=True)]
    assert moved == [True, True, True]


def test_edge_logits_are_in_the_state() -> None:
    first, second = (PcDarts(small_problem(channels=4)) for _ in range(2))
    first.step(0, *next(iter(first.batches(0, 1))))
    second.load_architecture_state(first.architecture_state())
    assert all(map(torch.equal, first.edge_logits, second.edge_logits))


def test_channels_that_cannot_be_parted_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"partial_channels=4.*multiple of 4"):
        PcDarts(small_problem(channels=2))


def test_the_saved_options_of_the_supernet_say_the_part() -> None:
    assert PcDarts(small_problem(channels=4), partial_channels=2).state_dict()["supernet_options"] == {
        "partial_channels": 2,
        "form": None,
        "plain": False,
        "checkpoint": False,
    }
