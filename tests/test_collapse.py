import pytest
import torch

from nas_cli.architecture import Architecture, Choice
from nas_cli.collapse import collapse_warning, gate_entropy, skip_shares, undecided_note
from nas_cli.data import ImageInfo
from nas_cli.spaces.cell import TenOperationCell
from nas_cli.spaces.darts import DartsSpace
from nas_cli.spaces.nasbench201 import NasBench201

INFO = ImageInfo(channels=3, size=32, class_names=("a", "b"), mean=(0.5,) * 3, std=(0.2,) * 3, mirror=True)
SPACE = NasBench201(INFO, num_cells=1, channels=4)
SKIPS = Architecture((1, 1, 1, 1, 3, 3))


def test_undecided_gates_have_full_entropy_and_decided_ones_none() -> None:
    undecided, decided = torch.full((2, 4), 0.25), torch.eye(4)[:2]
    assert gate_entropy([undecided]) == pytest.approx(1.0)
    assert gate_entropy([decided]) == 0.0
    assert gate_entropy([undecided, decided]) == pytest.approx(0.5)


def test_a_row_that_is_scaled_is_as_decided_as_before() -> None:
    assert gate_entropy([torch.tensor([[0.1, 0.3]])]) == pytest.approx(
        gate_entropy([torch.tensor([[0.25, 0.75]])])
    )


def test_the_share_of_skips_is_counted_over_the_operations() -> None:
    assert isinstance(SPACE.choices[0], Choice)
    assert skip_shares(SPACE, SKIPS) == {"cell": pytest.approx(4 / 6)}


def test_skips_are_counted_for_each_kind_of_cell_and_not_for_each_node() -> None:
    nodes = TenOperationCell(INFO, num_nodes=2, num_cells=3, channels=4)
    skip, conv = nodes.operations.index("skip_connect"), nodes.operations.index("conv3x3")
    assert skip_shares(nodes, Architecture((0, skip, 1, conv))) == {"cell": 0.5}
    kinds = DartsSpace(INFO, num_cells=3, channels=4, num_nodes=1)
    picks = kinds.architecture_from(
        {
            "normal": {(0, 2): "skip_connect", (1, 2): "skip_connect"},
            "reduction": {(0, 2): "skip_connect", (1, 2): "sep_conv_3x3"},
        }
    )
    assert skip_shares(kinds, picks) == {"normal": 1.0, "reduction": 0.5}


def test_a_cell_of_skips_is_told_with_its_remedies() -> None:
    warning = collapse_warning(SPACE, SKIPS)
    assert warning is not None
    assert warning.startswith("67% of the cell operations are skip connections")
    assert "strategy.warmup_epochs" in warning
    assert collapse_warning(SPACE, Architecture((1, 1, 3, 3, 3, 3))) is None


def test_undecided_gates_are_told_and_decided_ones_are_not() -> None:
    note = undecided_note(0.9996)
    assert note is not None
    assert note.startswith("The gates are almost undecided (entropy 1.000 of 1)")
    assert undecided_note(0.5) is None


def test_a_row_of_one_candidate_decides_nothing() -> None:
    alone = torch.ones(2, 1)
    assert gate_entropy([alone]) == 0.0
    assert gate_entropy([alone, torch.full((1, 4), 0.25)]) == pytest.approx(1.0)
