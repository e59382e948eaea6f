"""The cells of NASNet against what the papers and the authors' networks say."""

import random
import re
from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nas_cli.architecture import Architecture, Genotype, read_genotype
from nas_cli.config import build
from nas_cli.cost import count_parameters
from nas_cli.errors import ConfigError
from nas_cli.layers.drop_path import DropPath
from nas_cli.space import SearchSpace
from nas_cli.spaces.nasnet import KINDS, OPERATIONS, Block, NasnetSpace, NasnetSupernet
from nas_cli.supernet import Gate, SupernetOptions
from tests.spaces.images import image_info, images_of

# (operation, state) as the authors' code lists them, whose state 0 is the last cell and 1 the one before:
# tensorflow/models, slim/nets/nasnet/nasnet_utils.py; tensorflow/tpu, amoeba_net/model_specs.py.
AUTHORS = {
    ("nasnet_a", "normal"): "sep5 0 sep3 1 sep5 1 sep3 1 avg3 0 none 1 avg3 1 avg3 1 sep3 0 none 0",
    ("nasnet_a", "reduction"): "sep5 0 sep7 1 max3 0 sep7 1 avg3 0 sep5 1 none 3 avg3 2 sep3 2 max3 0",
    ("amoebanet_a", "normal"): "avg3 0 max3 0 sep3 1 none 1 none 0 avg3 1 sep3 0 sep5 2 avg3 5 sep3 0",
    ("amoebanet_a", "reduction"): "sep3 1 avg3 0 max3 0 sep7 2 max3 1 max3 0 sep3 4 1x7 0 avg3 1 sep7 0",
}
NAMES = {
    "none": "skip_connect",
    "avg3": "avg_pool_3x3",
    "max3": "max_pool_3x3",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "1x7": "bottleneck_conv_1x7_7x1",
}
JOINED = {
    ("nasnet_a", "normal"): (0, 2, 3, 4, 5, 6),
    ("nasnet_a", "reduction"): (3, 4, 5, 6),
    ("amoebanet_a", "normal"): (0, 3, 4, 6),
    ("amoebanet_a", "reduction"): (2, 3, 4, 5, 6),
}


def small_space(num_blocks: int = 2, **also: tuple[int, ...]) -> NasnetSpace:
    return NasnetSpace(image_info(), num_cells=3, channels=4, num_blocks=num_blocks, **also)


def small_supernet(space: NasnetSpace) -> NasnetSupernet:
    return space.build_supernet(SupernetOptions())


def published(name: str, **changes: int) -> tuple[NasnetSpace, Architecture]:
    genotype = read_genotype(name)
    assert isinstance(genotype, Genotype)
    space = build(SearchSpace, OmegaConf.create({**genotype.space, **changes}), image_info(32))
    assert isinstance(space, NasnetSpace)
    return space, space.architecture_of(genotype.choices)


def cell(*blocks: Block) -> dict[str, tuple[Block, ...]]:
    return dict.fromkeys(KINDS, blocks)


CHAIN = cell(
    ((0, "sep_conv_3x3"), (1, "max_pool_5x5")),
    ((2, "skip_connect"), (2, "sep_conv_3x3")),
)
"""Block 1 reads block 0 twice."""


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "in_the_paper"),
    [
        ("nasnet_a", 32, 3_328_234, 3.3),
        ("amoebanet_a", 32, 2_558_858, 2.6),
        ("amoebanet_a", 36, 3_207_106, 3.2),
    ],
)
def test_a_published_cell_has_the_published_parameters(
    name: str, channels: int, parameters: int, in_the_paper: float
) -> None:
    space, architecture = published(name, channels=channels)
    with torch.device("meta"):
        network = space.build(architecture)
    assert count_parameters(network) == parameters
    assert round(parameters / 1e6, 1) == in_the_paper


@pytest.mark.parametrize(("name", "kind"), AUTHORS)
def test_a_published_cell_reads_and_joins_what_the_authors_wrote(name: str, kind: str) -> None:
    space, architecture = published(name)
    words = AUTHORS[name, kind].split()
    renamed = {0: 1, 1: 0}
    halves = [
        (renamed.get(int(state), int(state)), NAMES[operation])
        for operation, state in zip(words[::2], words[1::2], strict=True)
    ]
    found = space.blocks(architecture, kind)
    for block, first, second in zip(found, halves[::2], halves[1::2], strict=True):
        assert Counter(block) == Counter((first, second))
    assert space.joined(architecture, kind) == JOINED[name, kind]


def test_nasnet_a_ends_with_the_768_channels_of_its_name() -> None:
    space, architecture = published("nasnet_a")
    with torch.device("meta"):
        network = space.build(architecture)
    assert network.skeleton.classifier.linear.in_features == 768  # type: ignore[union-attr]


def test_a_block_picks_two_of_its_earlier_states_and_two_of_thirteen_operations() -> None:
    space = small_space(num_blocks=5)
    sizes = {choice.name: len(choice.options) for choice in space.choices}
    assert len(sizes) == 2 * 5 * 4
    assert len(OPERATIONS) == 13
    for index in range(5):
        assert sizes[f"normal.block{index}.first_input"] == 2 + index
        assert sizes[f"normal.block{index}.second_input"] == 2 + index
        assert sizes[f"reduction.block{index}.second_operation"] == 13
    assert space.size == ((2 * 3 * 4 * 5 * 6) ** 2 * 13**10) ** 2


def test_swapped_halves_are_one_network() -> None:
    space, rng = small_space(), random.Random(0)
    for _ in range(20):
        architecture = space.sample(rng)
        assert space.canonical(swapped(space, architecture)) == space.canonical(architecture)


def swapped(space: NasnetSpace, architecture: Architecture) -> Architecture:
    """The same blocks, the second half of each in the place of the first."""
    other = {"first": "second", "second": "first"}
    return space.architecture_of(
        {
            re.sub("first|second", lambda half: other[half.group()], name): option
            for name, option in space.options_of(architecture).items()
        }
    )


def test_the_earlier_state_comes_first_and_of_one_state_the_earlier_operation() -> None:
    space = small_space()
    block = ((1, "sep_conv_3x3"), (0, "sep_conv_5x5"))
    twice = ((2, "sep_conv_3x3"), (2, "skip_connect"))
    architecture = space.architecture_from(cell(block, twice))
    assert space.blocks(architecture, "normal") == [block[::-1], twice[::-1]]
    assert space.options_of(architecture)["normal.block0.first_operation"] == "sep_conv_5x5"


def test_a_cell_joins_the_blocks_that_no_block_reads() -> None:
    space = small_space()
    architecture = space.architecture_from(CHAIN)
    assert space.joined(architecture, "normal") == (3,)
    loose = space.architecture_from(cell(CHAIN["normal"][0], ((0, "skip_connect"), (1, "skip_connect"))))
    assert space.joined(loose, "normal") == (2, 3)


def test_a_cell_also_joins_the_states_that_the_settings_name() -> None:
    space = small_space(normal_also_joins=(0,), reduction_also_joins=(2, 3))
    architecture = space.architecture_from(CHAIN)
    assert space.joined(architecture, "normal") == (0, 3)
    assert space.joined(architecture, "reduction") == (2, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"normal_also_joins": [4]}, r"normal_also_joins=\[4\]: must be states from 0 to 3 .*num_blocks=2"),
        ({"reduction_also_joins": [1]}, r"reduction_also_joins=\[1\]: must be states from 2 to 3 .*larger"),
        ({"normal_also_joins": [-1]}, "a list .a whole number at least 0 each"),
    ],
)
def test_a_state_that_cannot_be_joined_is_refused_with_those_that_can(
    settings: dict[str, list[int]], said: str
) -> None:
    node = {"_target_": "nas_cli.spaces.nasnet.NasnetSpace", "num_blocks": 2, **settings}
    with pytest.raises(ConfigError, match=said):
        build(SearchSpace, OmegaConf.create(node), image_info())


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_cut_out_is_the_supernet_where_blocks_are_joined_that_are_read(plain: bool, training: bool) -> None:
    space = small_space(num_blocks=3, normal_also_joins=(0, 2), reduction_also_joins=(3,))
    supernet = space.build_supernet(SupernetOptions(plain=plain)).train(training)
    images, rng = images_of(image_info()), random.Random(0)
    for _ in range(5):
        architecture = space.sample(rng)
        network = supernet.cut_out(architecture)
        with torch.no_grad():
            expected = network(images)
            actual = supernet(images, supernet.gates_of(architecture))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_cut_out_has_the_layers_of_the_network() -> None:
    space, rng = small_space(num_blocks=3, normal_also_joins=(0,)), random.Random(0)
    supernet = small_supernet(space)
    for _ in range(5):
        architecture = space.sample(rng)
        assert _layers(supernet.cut_out(architecture)) == _layers(space.build(architecture))


def _layers(network: nn.Module) -> Counter[tuple[str, tuple[int, ...]]]:
    """Layers by kind and by the shape of what they hold, whatever their norms learn, without DropPath."""
    leaves = [module for module in network.modules() if not list(module.children())]
    return Counter((type(leaf).__name__, _shape(leaf)) for leaf in leaves if not isinstance(leaf, DropPath))


def _shape(leaf: nn.Module) -> tuple[int, ...]:
    if isinstance(leaf, nn.BatchNorm2d):
        return (leaf.num_features,)
    return tuple(size for parameter in leaf.parameters() for size in parameter.shape)


def test_swapped_halves_run_with_the_same_shared_weights() -> None:
    space = small_space()
    supernet = small_supernet(space)
    architecture = space.architecture_from(CHAIN)
    gates = supernet.gates_of(swapped(space, architecture))
    for gate, expected in zip(gates, supernet.gates_of(architecture), strict=True):
        assert torch.equal(gate.weights, expected.weights)


def test_gates_are_one_a_source_state_and_one_that_joins_for_each_kind_of_cell() -> None:
    supernet = small_supernet(small_space(num_blocks=3))
    assert supernet.gate_shapes == ((6, 13), (6, 13), (4, 13), (2, 13), (3, 1)) * 2
    assert supernet.candidates == (*(OPERATIONS,) * 4, ("join",)) * 2


def test_a_join_gate_of_an_architecture_leaves_out_what_is_read() -> None:
    space = small_space()
    supernet = small_supernet(space)
    join = supernet.gates_of(space.architecture_from(CHAIN))[3]
    assert join.weights.tolist() == [[0.0], [1.0]]
    assert join.active == ((), (0,))


def test_the_halves_of_a_block_are_groups_of_rows_and_a_join_is_one_by_itself() -> None:
    groups = small_supernet(small_space()).row_groups
    assert groups[:6] == (
        ((0, 0), (1, 0)),
        ((0, 1), (1, 1)),
        ((0, 2), (1, 2), (2, 0)),
        ((0, 3), (1, 3), (2, 1)),
        ((3, 0),),
        ((3, 1),),
    )
    assert groups[6] == ((4, 0), (5, 0))


def test_an_operation_has_one_module_a_cell_and_joining_has_none() -> None:
    supernet = small_supernet(small_space())  # a normal cell, then two reduction cells
    assert len(supernet.candidate_modules(0, 0, 0)) == 1
    assert len(supernet.candidate_modules(4, 0, 0)) == 2
    assert supernet.candidate_modules(3, 0, 0) == []


def test_each_half_takes_its_strongest_operation_on_any_state() -> None:
    space = small_space()
    supernet = small_supernet(space)
    weights = [torch.zeros(shape) for shape in supernet.gate_shapes]
    weights[0][2, OPERATIONS.index("max_pool_7x7")] = 0.4  # state 0 to the first half of block 1
    weights[2][0, OPERATIONS.index("sep_conv_7x7")] = 0.5  # block 0 to the same half
    weights[1][3, OPERATIONS.index("nor_conv_1x1")] = 0.1  # state 1 to the second half of block 1
    weights[3][:] = 9.0  # a join gate, which says nothing
    found = space.blocks(supernet.discretise(weights), "normal")
    assert found[1] == ((1, "nor_conv_1x1"), (2, "sep_conv_7x7"))


def test_soft_gates_join_every_block() -> None:
    supernet = small_supernet(small_space()).eval()
    images = images_of(image_info())
    gates = [Gate.soft(torch.full(shape, 1 / shape[1])) for shape in supernet.gate_shapes]
    logits = supernet(images, gates)
    for row in (0, 1):
        weights = torch.ones(2, 1)
        weights[row] = 0.0
        assert not torch.allclose(supernet(images, [*gates[:3], Gate.soft(weights), *gates[4:]]), logits)


def test_identities_are_never_dropped_and_every_other_edge_may_be() -> None:
    space = small_space()
    network = space.build(space.architecture_from(CHAIN))
    # Three cells of four edges, one of which is the identity.
    assert sum(isinstance(module, DropPath) for module in network.modules()) == 3 * 3


def test_a_drawing_has_both_edges_from_one_state() -> None:
    space = small_space(normal_also_joins=(0,))
    graph = space.cells(space.architecture_from(CHAIN))["normal"]
    assert graph.inputs == ("c_{k-2}", "c_{k-1}")
    assert graph.edges[2:] == (("0", "1", "skip_connect"), ("0", "1", "sep_conv_3x3"))
    assert graph.outputs == ("c_{k-2}", "1")


def test_a_cell_is_spelled_block_for_block() -> None:
    space = small_space()
    text = space.spell(space.architecture_from(CHAIN))
    normal = "sep_conv_3x3(0) + max_pool_5x5(1), skip_connect(2) + sep_conv_3x3(2)"
    assert text == f"normal: {normal}; reduction: {normal}"
