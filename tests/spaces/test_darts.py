"""The cells of DARTS against what the paper and the authors' networks say."""

import json
import random
from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nas_cli.architecture import Architecture, Genotype, GenotypeText, published_names, read_genotype
from nas_cli.config import build
from nas_cli.cost import count_parameters
from nas_cli.errors import ConfigError, GenotypeError, UnsupportedError
from nas_cli.layers.drop_path import DropPath
from nas_cli.layers.stem import LargeStem, SmallStem
from nas_cli.space import SearchSpace
from nas_cli.spaces.darts import CANDIDATES, DartsSpace, DartsSupernet
from nas_cli.supernet import SupernetOptions
from tests.spaces.images import image_info, images_of, shared_data

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
PUBLISHED = {"darts_v1": "DARTS_V1", "darts_v2": "DARTS_V2", "pc_darts": "PC_DARTS_cifar", "pdarts": "PDARTS"}


def small_space(size: int = 8, num_nodes: int = 4) -> DartsSpace:
    return DartsSpace(image_info(size), num_cells=5, channels=4, num_nodes=num_nodes)


def small_supernet() -> tuple[DartsSpace, DartsSupernet]:
    space = small_space()
    return space, space.build_supernet(SupernetOptions())


def published(name: str) -> Genotype:
    genotype = read_genotype(name)
    assert isinstance(genotype, Genotype)
    return genotype


def parse(text: str) -> Architecture:
    return small_space().parse(GenotypeText(text))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_cell_has_exactly_the_published_parameters(name: str) -> None:
    records = json.loads(shared_data("published_genotypes.json").read_text())["records"]
    record = next(record for record in records if record["name"] == PUBLISHED[name])
    space = DartsSpace(image_info(32), num_cells=20, channels=36, num_nodes=4)
    with torch.device("meta"):
        network = space.build(space.architecture_of(published(name).choices))
    assert count_parameters(network) == record["parameters_20_cells_36_channels_no_auxiliary_head"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_cell_reads_what_the_authors_wrote(name: str) -> None:
    records = json.loads(shared_data("published_genotypes.json").read_text())["records"]
    cells = next(record for record in records if record["name"] == PUBLISHED[name])["genotype"]
    space = small_space()
    architecture = space.architecture_of(published(name).choices)
    for kind, field in (("normal", "normal"), ("reduction", "reduce")):
        pairs = [(source, 2 + k // 2, operation) for k, (operation, source) in enumerate(cells[field])]
        wiring = space.wiring(architecture, kind)
        assert sorted(pairs) == sorted((*edge, operation) for edge, operation in wiring.items())


def test_the_imagenet_network_of_darts_v2_has_the_papers_4_7_million_parameters() -> None:
    space = DartsSpace(image_info(224, num_classes=1000), num_cells=14, channels=48, num_nodes=4)
    with torch.device("meta"):
        network = space.build(space.architecture_of(published("darts_v2").choices))
    assert count_parameters(network) == 4_718_752


def test_every_published_cell_is_tested() -> None:
    assert set(PUBLISHED) <= set(published_names())


def test_a_cell_type_spans_the_papers_billion_cells() -> None:
    # (1 * 3 * 6 * 10) input pairs times seven operations on each of eight edges, for two cell types.
    assert small_space().size == (180 * 7**8) ** 2


def test_a_node_is_named_after_its_state() -> None:
    names = [choice.name for choice in small_space().choices]
    assert names[:3] == ["normal.node2.inputs", "normal.node2.first", "normal.node2.second"]
    assert names[-1] == "reduction.node5.second"


def test_the_inputs_of_a_node_are_all_pairs_of_earlier_states() -> None:
    choice = next(choice for choice in small_space().choices if choice.name == "normal.node4.inputs")
    assert choice.options == ("0,1", "0,2", "0,3", "1,2", "1,3", "2,3")


@pytest.mark.parametrize(("num_cells", "reductions"), [(3, [1, 2]), (5, [1, 3]), (8, [2, 5]), (20, [6, 13])])
def test_reduction_cells_stand_at_one_and_two_thirds(num_cells: int, reductions: list[int]) -> None:
    places = DartsSpace(image_info(), num_cells=num_cells, channels=4).make_skeleton(affine=True).places
    assert [index for index, place in enumerate(places) if place.kind == "reduction"] == reductions


@pytest.mark.parametrize("num_cells", [1, 2])
def test_a_network_without_a_normal_cell_is_refused(num_cells: int) -> None:
    node = OmegaConf.create({"_target_": "nas_cli.spaces.darts.DartsSpace", "num_cells": num_cells})
    with pytest.raises(
        ConfigError, match=rf"space\.num_cells={num_cells}: must be a whole number at least 3"
    ):
        build(SearchSpace, node, image_info())


@pytest.mark.parametrize(("size", "stem"), [(64, SmallStem), (65, LargeStem)])
def test_images_above_64_pixels_get_the_imagenet_stem(size: int, stem: type[nn.Module]) -> None:
    assert isinstance(small_space(size).make_skeleton(affine=True).stem, stem)


@pytest.mark.parametrize("size", [65, 100, 224])
def test_large_images_pass_with_an_auxiliary_head(size: int) -> None:
    space = DartsSpace(image_info(size), num_cells=3, channels=2, num_nodes=2)
    network = space.build(space.sample(random.Random(0)), auxiliary_head=True)
    with torch.no_grad():
        logits, auxiliary_logits = network(images_of(image_info(size), count=2))
    assert logits.shape == auxiliary_logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(32, 5, 3), (224, 5, 2), (8, 1, 1), (16, 3, 1), (28, 5, 2), (64, 10, 6)]
)
def test_the_auxiliary_head_pools_as_the_paper_where_the_paper_has_that_size(
    size: int, window: int, stride: int
) -> None:
    space = small_space(size)
    with torch.device("meta"):
        network = space.build(space.sample(random.Random(0)), auxiliary_head=True)
    pool = next(module for name, module in network.named_modules() if name.endswith("head.layers.1"))
    assert isinstance(pool, nn.AvgPool2d)
    assert (pool.kernel_size, pool.stride) == (window, stride)


def test_a_refused_size_names_the_reductions_and_the_remedy() -> None:
    with pytest.raises(UnsupportedError, match=r"4x4 pixels .* 2 reductions .* to 5x5 pixels or more"):
        small_space(size=4)


def test_identities_are_never_dropped_and_every_other_edge_may_be() -> None:
    space = small_space()
    architecture = space.architecture_of(published("darts_v2").choices)
    # Five cells of eight edges; a normal cell of DARTS_V2 has two identities, a reduction cell three.
    drop_paths = [module for module in space.build(architecture).modules() if isinstance(module, DropPath)]
    assert len(drop_paths) == 5 * 8 - 3 * 2 - 2 * 3


def test_the_search_network_differs_from_the_final_one_where_the_paper_says_so() -> None:
    space, supernet = small_supernet()
    architecture = space.architecture_of(published("pc_darts").choices)
    searched, final = _leaves(supernet.cut_out(architecture)), _leaves(space.build(architecture))
    # A norm after each pool in the search: one a normal cell (node 4), one a reduction cell (node 2).
    assert sum((searched - final).values()) == 5
    assert {name for name, _ in searched - final} == {"BatchNorm2d"}
    assert {name for name, _ in final - searched} == {"DropPath"}


def test_the_norms_of_the_search_have_no_scale_and_those_of_the_final_network_have() -> None:
    space, supernet = small_supernet()
    architecture = space.sample(random.Random(0))
    assert {norm.affine for norm in _norms(space.build(architecture))} == {True}
    # The stem's norm keeps its scale, as in the authors' code.
    assert [norm.affine for norm in _norms(supernet.cut_out(architecture))].count(True) == 1


def _leaves(network: nn.Module) -> Counter[tuple[str, tuple[int, ...]]]:
    """Layers by kind and by the shape of what they hold, whatever their norms learn."""
    leaves = [module for module in network.modules() if not list(module.children())]
    return Counter((type(leaf).__name__, _shape(leaf)) for leaf in leaves)


def _shape(leaf: nn.Module) -> tuple[int, ...]:
    if isinstance(leaf, nn.BatchNorm2d):
        return (leaf.num_features,)
    return tuple(size for parameter in leaf.parameters() for size in parameter.shape)


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_gates_are_one_a_state_for_each_cell_type() -> None:
    _, supernet = small_supernet()
    assert supernet.gate_shapes == ((4, 8), (4, 8), (3, 8), (2, 8), (1, 8)) * 2
    assert supernet.candidates == (CANDIDATES,) * 10


def test_a_node_keeps_its_two_strongest_edges_and_their_strongest_operations_other_than_none() -> None:
    space, supernet = small_supernet()
    weights = [torch.zeros(shape) for shape in supernet.gate_shapes]
    for gate in weights:
        gate[:, 0] = 0.9  # none is the strongest everywhere, and never kept
    last = CANDIDATES.index("dil_conv_5x5")
    weights[1][3, last] = 0.3  # state 1 to state 5, the last of four rows
    weights[4][0, 4] = 0.2  # state 4 to state 5
    weights[4][0, 5] = 0.1
    weights[0][3, 6] = 0.1  # state 0 to state 5: the third strongest edge
    options = space.options_of(supernet.discretise(weights))
    assert options["normal.node5.inputs"] == "1,4"
    assert options["normal.node5.first"] == "dil_conv_5x5"
    assert options["normal.node5.second"] == "sep_conv_3x3"


def test_darts_text_form_is_read_and_written() -> None:
    space = small_space()
    architecture = space.parse(GenotypeText(DARTS_V2))
    assert space.options_of(architecture) == published("darts_v2").choices
    assert space.parse(GenotypeText(space.spell(architecture))) == architecture


def test_a_text_form_is_read_after_a_name_and_in_a_log_line() -> None:
    for before in ("DARTS_V2 = ", "2018-06-01 12:00:00 genotype = "):
        assert parse(before + DARTS_V2) == parse(DARTS_V2)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "'sep_conv_3x3', 0",
            "'sep_conv_9x9', 0",
            "no operation 'sep_conv_9x9' in this space; it has max_pool_3x3",
        ),
        ("'sep_conv_3x3', 0", "'none', 0", "no operation 'none'"),
        ("'sep_conv_3x3', 0", "'sep_conv_3x3', 2", "state 2 cannot read state 2, only the states 0 to 1"),
        ("'sep_conv_3x3', 0", "'sep_conv_3x3', -1", "cannot read state -1"),
        ("'sep_conv_3x3', 0", "'sep_conv_3x3', 1", "both operations of state 2 read state 1"),
        ("('sep_conv_3x3', 0), ", "", "normal has 7 pairs"),
        ("('skip_connect', 0), ('skip_connect', 0), ", "", "normal has 6 pairs"),
        ("('sep_conv_3x3', 0)", "'sep_conv_3x3'", "normal holds 'sep_conv_3x3'"),
        ("range(2, 6)", "range(2, 5)", r"normal_concat joins the states \[2, 3, 4\]"),
        ("range(2, 6)", "range(2, 10**9)", "is no plain value"),
        ("range(2, 6)", "range(2, 1000000000)", "names the state 1000000000"),
        ("range(2, 6)", "list(range(6))", "must be a range or list of states"),
        ("[2, 3, 4, 5]", "[2, 3, 4, 'x']", "names the state 'x'"),
        (", reduce_concat=[2, 3, 4, 5]", "", "no reduce_concat="),
        (", reduce_concat=[2, 3, 4, 5]", ", reduce_concat=[2, 3, 4, 5], extra=1", "gives extra="),
        ("[('sep_conv_3x3', 0)", "[__import__('os').getcwd(), ('sep_conv_3x3', 0)", "is no plain value"),
        ("reduce_concat=[2, 3, 4, 5])", "reduce_concat=[2, 3", "cannot be read"),
        ("Genotype(", "Genotypes(", "has no `Genotype"),
        ("Genotype(", "Genotype(1, ", "must be one `Genotype"),
    ],
)
def test_a_wrong_text_form_is_refused_with_the_reason(old: str, new: str, said: str) -> None:
    with pytest.raises(GenotypeError, match=said):
        parse(DARTS_V2.replace(old, new, 1))


def test_a_cell_of_three_nodes_is_read_by_a_space_of_three_nodes() -> None:
    space = small_space(num_nodes=3)
    architecture = space.sample(random.Random(0))
    text = GenotypeText(space.spell(architecture))
    assert space.parse(text) == architecture
    with pytest.raises(GenotypeError, match=r"space\.num_nodes=4"):
        small_space().parse(text)


def test_a_drawing_has_the_papers_names() -> None:
    graph = small_space().cells(small_space().parse(GenotypeText(DARTS_V2)))["reduction"]
    assert graph.inputs == ("c_{k-2}", "c_{k-1}")
    assert graph.outputs == ("0", "1", "2", "3")
    assert ("c_{k-1}", "0", "max_pool_3x3") in graph.edges
    assert ("0", "3", "skip_connect") in graph.edges
