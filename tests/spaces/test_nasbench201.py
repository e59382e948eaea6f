"""The cells of NAS-Bench-201 against the benchmark's table."""

import random

import numpy as np
import pytest
import torch

from nas_cli.architecture import Architecture, GenotypeText
from nas_cli.cost import Cost, cost_of
from nas_cli.errors import GenotypeError, UnsupportedError
from nas_cli.spaces.nasbench201 import OPERATIONS, NasBench201
from nas_cli.supernet import SupernetOptions
from tests.spaces.images import image_info, images_of, shared_data

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def benchmark_space() -> NasBench201:
    return NasBench201(image_info(32), num_cells=5, channels=16)


def small_space() -> NasBench201:
    return NasBench201(image_info(), num_cells=1, channels=4)


def test_the_space_has_the_benchmarks_15625_cells() -> None:
    assert small_space().size == 15_625


def test_a_seeded_sample_of_300_networks_costs_what_the_table_says_but_for_ten_biases() -> None:
    table = np.load(shared_data("nasbench201.npz"))
    millions = [table["c10_params_from_arch_m"], table["c10_flops_from_arch_m"]]
    space = benchmark_space()
    for row in random.Random(0).sample(range(15_625), 300):
        with torch.device("meta"):
            network = space.build(space.parse(GenotypeText(table["arch"][row].decode())))
        cost, (parameters, multiply_adds) = cost_of(network, space.info), (m[row] * 1e6 for m in millions)
        assert cost == Cost(round(parameters), round(multiply_adds) - 10), table["arch"][row]


def test_every_spelling_of_the_table_is_read_and_written_as_it_is() -> None:
    table = np.load(shared_data("nasbench201.npz"))
    space = small_space()
    names, order = [name.decode() for name in table["op_names"]], table["edge_names"]
    columns = [[name.decode() for name in order].index(choice.name) for choice in space.choices]
    for spelling, operations in zip(table["arch"], table["ops"], strict=True):
        architecture = space.parse(GenotypeText(spelling.decode()))
        assert space.spell(architecture) == spelling.decode()
        expected = [names[operations[column]] for column in columns]
        assert list(space.options_of(architecture).values()) == expected


def test_edges_are_named_by_their_nodes() -> None:
    options = small_space().options_of(small_space().parse(GenotypeText(BEST)))
    assert options == {
        "0->1": "nor_conv_3x3",
        "0->2": "nor_conv_3x3",
        "1->2": "nor_conv_3x3",
        "0->3": "skip_connect",
        "1->3": "nor_conv_3x3",
        "2->3": "nor_conv_3x3",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BEST.replace("skip_connect", "skip"), "no operation 'skip' .* it has none, skip_connect"),
        (BEST.replace("skip_connect~0", "skip_connect~1"), "must be written operation~0"),
        (BEST.replace("skip_connect~0", "skip_connect"), "must be written operation~0"),
        (BEST.replace("|nor_conv_3x3~0|+", "", 1), "is no cell of NAS-Bench-201"),
        (BEST + "+" + BEST, "is no cell of NAS-Bench-201"),
    ],
)
def test_a_wrong_spelling_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(GenotypeError, match=said):
        small_space().parse(GenotypeText(text))


def test_an_auxiliary_head_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(UnsupportedError, match=r"recipe\.auxiliary_weight=0"):
        small_space().build(Architecture((0,) * 6), auxiliary_head=True)


def test_a_cell_without_any_edge_gives_every_image_the_same_logits() -> None:
    space = small_space()
    network = space.build(space.architecture_of({choice.name: "none" for choice in space.choices})).eval()
    logits = network(images_of(space.info))
    assert logits.isfinite().all()
    assert torch.equal(logits[0], logits[1])


def test_gates_are_one_a_source_node_and_all_cells_share_them() -> None:
    supernet = NasBench201(image_info(), num_cells=2, channels=4).build_supernet(SupernetOptions())
    assert supernet.gate_shapes == ((3, 5), (2, 5), (1, 5))
    assert supernet.candidates == (OPERATIONS,) * 3


def test_discretising_takes_the_strongest_candidate_even_if_it_is_none() -> None:
    space = small_space()
    supernet = space.build_supernet(SupernetOptions())
    weights = [torch.zeros(shape) for shape in supernet.gate_shapes]
    weights[0][2, 4] = 0.4  # 0->3 is the third row of node 0
    weights[1][0, 3] = 0.5  # 1->2
    weights[2][0, 0] = 0.6  # 2->3
    options = space.options_of(supernet.discretise(weights))
    assert options["0->3"] == "avg_pool_3x3"
    assert options["1->2"] == "nor_conv_3x3"
    assert options["2->3"] == "none"


def test_a_cut_out_has_the_layers_of_the_network_but_for_the_scale_of_the_cells_norms() -> None:
    space = small_space()
    architecture = space.parse(GenotypeText(BEST))
    searched = space.build_supernet(SupernetOptions()).cut_out(architecture).state_dict()
    final = space.build(architecture).state_dict()
    searched_shapes = sorted(tuple(tensor.shape) for tensor in searched.values())
    scales = {name for name in final if name.startswith("cells.") and _is_scale(name)}
    assert searched_shapes == sorted(tuple(final[name].shape) for name in final.keys() - scales)
    assert len(scales) == 3 * 5 * 2


def _is_scale(name: str) -> bool:
    return name.endswith(("norm.weight", "norm.bias"))


def test_a_drawing_leaves_out_the_edges_of_none() -> None:
    space = small_space()
    graph = space.cells(space.parse(GenotypeText(BEST.replace("skip_connect", "none"))))["cell"]
    assert len(graph.edges) == 5
    assert ("2", "3", "nor_conv_3x3") in graph.edges
