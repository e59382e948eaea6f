"""The ten-operation cell: its choices, its network, its two gates a node."""

import random

import pytest
import torch
from torch import nn

from nas_cli.architecture import Architecture
from nas_cli.drawing import svg_of
from nas_cli.errors import UnsupportedError
from nas_cli.layers.drop_path import DropPath, set_drop_path
from nas_cli.layers.operations import FactorizedReduce
from nas_cli.layers.sliced import OPERATIONS, Operation
from nas_cli.spaces.cell import TenOperationCell, TenOperationSupernet
from nas_cli.supernet import Gate, SupernetOptions
from tests.spaces.images import image_info, images_of


def small_space(
    num_nodes: int = 3, num_cells: int = 3, size: int = 8, operations: tuple[Operation, ...] = OPERATIONS
) -> TenOperationCell:
    return TenOperationCell(
        image_info(size), num_nodes=num_nodes, num_cells=num_cells, channels=4, operations=operations
    )


def small_supernet(space: TenOperationCell) -> TenOperationSupernet:
    return space.build_supernet(SupernetOptions())


def architecture(space: TenOperationCell, *nodes: tuple[int, str]) -> Architecture:
    return Architecture(
        tuple(pick for source, name in nodes for pick in (source, space.operations.index(name)))
    )


def test_the_operations_are_the_ten() -> None:
    assert OPERATIONS == (
        "conv3x3",
        "conv5x5",
        "conv7x7",
        "depthwise_conv3x3",
        "max_pool3x3",
        "avg_pool3x3",
        "skip_connect",
        "sep_conv3x3",
        "sep_conv5x5",
        "none",
    )


def test_a_node_chooses_one_state_before_it_and_one_operation() -> None:
    choices = {choice.name: choice.options for choice in small_space().choices}
    assert choices == {
        "node2.input": (0, 1),
        "node2.operation": OPERATIONS,
        "node3.input": (0, 1, 2),
        "node3.operation": OPERATIONS,
        "node4.input": (0, 1, 2, 3),
        "node4.operation": OPERATIONS,
    }
    assert small_space().size == 2 * 3 * 4 * 10**3


def test_a_subset_of_operations_is_all_that_nodes_choose_from() -> None:
    space = small_space(num_nodes=1, operations=("conv3x3", "none"))
    assert space.size == 2 * 2
    assert small_supernet(space).candidates == (("0", "1"), ("conv3x3", "none"))


def test_gates_are_two_a_node_and_all_cells_share_them() -> None:
    supernet = small_supernet(small_space(num_nodes=2, num_cells=5))
    assert supernet.gate_shapes == ((1, 2), (1, 10), (1, 3), (1, 10))
    assert supernet.candidates == (("0", "1"), OPERATIONS, ("0", "1", "2"), OPERATIONS)


def test_discretising_takes_the_strongest_state_and_operation() -> None:
    space = small_space(num_nodes=2)
    weights = [torch.zeros(shape) for shape in small_supernet(space).gate_shapes]
    weights[0][0, 1] = 0.6
    weights[1][0, 2] = 0.3
    weights[2][0, 2] = 0.4
    weights[3][0, 5] = 0.2
    found = small_supernet(space).discretise(weights)
    assert found == architecture(space, (1, "conv7x7"), (2, "avg_pool3x3"))


@pytest.mark.parametrize(
    ("spelt", "canonical"),
    [
        # a node of none reads nothing
        ([(1, "none"), (0, "conv3x3"), (1, "conv5x5")], [(0, "none"), (0, "conv3x3"), (1, "conv5x5")]),
        # a node that passes a state on is read through, more than once
        (
            [(1, "skip_connect"), (2, "skip_connect"), (3, "conv3x3")],
            [(1, "skip_connect"), (1, "skip_connect"), (1, "conv3x3")],
        ),
        # what is made of zeros without weights is zero
        ([(1, "none"), (2, "max_pool3x3"), (3, "skip_connect")], [(0, "none")] * 3),
        # zeros are read from the first node of zeros, and a convolution of them is one of its own
        (
            [(1, "none"), (1, "none"), (3, "conv3x3")],
            [(0, "none"), (0, "none"), (2, "conv3x3")],
        ),
        ([(1, "conv3x3"), (2, "conv5x5"), (0, "avg_pool3x3")],) * 2,
    ],
)
def test_spellings_of_one_network_have_one_canonical_form(
    spelt: list[tuple[int, str]], canonical: list[tuple[int, str]]
) -> None:
    space = small_space()
    assert space.canonical(architecture(space, *spelt)) == architecture(space, *canonical)


def test_an_architecture_and_its_canonical_form_compute_the_same() -> None:
    space = small_space(operations=("conv3x3", "max_pool3x3", "skip_connect", "none"))
    supernet, images, rng = small_supernet(space).double(), images_of(space.info).double(), random.Random(0)
    changed = 0
    for _ in range(40):
        spelt = space.sample(rng)
        canonical = space.canonical(spelt)
        changed += spelt != canonical
        with torch.no_grad():
            logits = [supernet(images, supernet.gates_of(each)) for each in (spelt, canonical)]
        torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-12)
    assert changed > 10


@pytest.mark.parametrize(("num_cells", "sizes"), [(3, [8, 4, 2]), (6, [8, 8, 4, 4, 2, 2])])
def test_cells_from_one_and_two_thirds_on_have_half_the_size_and_twice_the_channels(
    num_cells: int, sizes: list[int]
) -> None:
    space = small_space(num_cells=num_cells)
    network = space.build(space.sample(random.Random(0)))
    seen: list[tuple[int, ...]] = []
    joins = network.get_submodule("skeleton.joins")
    for join in joins.children():
        join.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape[1:])))
    network(images_of(space.info))
    assert seen == [(4 * 8 // size, size, size) for size in sizes]


def test_a_large_images_stem_and_two_halvings_in_a_row_fit() -> None:
    space = small_space(size=72)
    assert space.build(space.sample(random.Random(0)))(images_of(space.info)).shape == (4, 10)


def test_what_a_cell_reads_is_halved_before_its_nodes_and_nothing_in_them_is() -> None:
    space = small_space()
    network = space.build(architecture(space, *[(0, "skip_connect")] * 3))
    reduces = [name for name, module in network.named_modules() if isinstance(module, FactorizedReduce)]
    assert reduces
    assert all(name.startswith(("skeleton.before_last", "skeleton.last")) for name in reduces)


def test_a_network_has_the_layers_of_the_cut_out_but_for_the_scale_of_the_norms() -> None:
    space = small_space()
    found = architecture(space, (0, "sep_conv5x5"), (2, "depthwise_conv3x3"), (1, "conv7x7"))
    searched = small_supernet(space).cut_out(found).state_dict()
    network = space.build(found)
    final = network.state_dict()
    scales = {
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        for parameter in ("weight", "bias")
        if isinstance(module, nn.BatchNorm2d) and ".stem." not in name
    }
    searched_shapes = sorted(tuple(tensor.shape) for tensor in searched.values())
    assert searched_shapes == sorted(tuple(final[name].shape) for name in final.keys() - scales)


def test_drop_path_drops_all_operations_but_skips() -> None:
    space = small_space()
    network = space.build(architecture(space, (0, "conv3x3"), (0, "skip_connect"), (2, "avg_pool3x3")))
    assert set_drop_path(network, 0.0, None) == 2 * space.num_cells
    assert not any(isinstance(module, DropPath) for module in small_supernet(space).modules())


def test_a_network_of_none_gives_every_image_the_same_logits() -> None:
    space = small_space()
    logits = space.build(architecture(space, *[(0, "none")] * 3)).eval()(images_of(space.info))
    assert logits.isfinite().all()
    assert torch.equal(logits[0], logits[1])


def test_only_operations_have_modules_to_time_one_in_each_cell() -> None:
    supernet = small_supernet(small_space())
    assert supernet.candidate_modules(0, 0, 1) == []
    modules = supernet.candidate_modules(3, 0, OPERATIONS.index("conv5x5"))
    assert len(modules) == 3
    kernels = [parameter for module in modules for parameter in module.parameters()]
    assert [tuple(kernel.shape) for kernel in kernels] == [(4, 4, 5, 5), (8, 8, 5, 5), (16, 16, 5, 5)]


def test_partial_channels_are_refused_with_the_spaces_that_have_them() -> None:
    with pytest.raises(UnsupportedError, match=r"partial_channels=4.*space=darts or space=nasbench201"):
        small_space().build_supernet(SupernetOptions(partial_channels=4))


def test_elastic_layers_are_refused_with_the_spaces_that_have_them() -> None:
    with pytest.raises(UnsupportedError, match="space=mobilenet"):
        small_space().build_supernet(SupernetOptions(form="elastic"))


def test_the_plain_supernet_is_the_fast_one() -> None:
    space = small_space()
    fast, plain = (space.build_supernet(SupernetOptions(plain=plain)).double() for plain in (False, True))
    plain.load_state_dict(fast.state_dict())
    gates = [Gate.soft(torch.full(shape, 1 / shape[1]).double()) for shape in fast.gate_shapes]
    images = images_of(space.info).double()
    torch.testing.assert_close(fast(images, gates), plain(images, gates), rtol=0, atol=1e-12)


def test_a_drawing_shows_every_node_also_one_of_none() -> None:
    space = small_space()
    graph = space.cells(architecture(space, (1, "none"), (2, "conv3x3"), (0, "skip_connect")))["cell"]
    assert graph.edges == (("c_{k-1}", "0", "none"), ("0", "1", "conv3x3"), ("c_{k-2}", "2", "skip_connect"))
    assert graph.outputs == ("0", "1", "2")
    assert "conv3x3" in svg_of({"cell": graph})
