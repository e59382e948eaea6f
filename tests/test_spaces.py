"""What every space of conf/space owes the rest of the program; a new YAML is tested without a line here."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nas_cli.architecture import Genotype, GenotypeText, read_genotype
from nas_cli.catalogue import options, summary
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import GenotypeError, UnsupportedError
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.supernet import Form, Gate, Supernet, SupernetOptions
from tests.spaces.images import image_info, images_of

SPACES = sorted(options("space"))
# Small enough for a test; a space without such a setting keeps its own.
SMALL = {"channels": 4, "num_cells": 3}

every_space = pytest.mark.parametrize("name", SPACES)


def make_space(name: str, info: ImageInfo | None = None) -> SearchSpace:
    node = OmegaConf.load(options("space")[name])
    assert isinstance(node, DictConfig)
    node.update({key: value for key, value in SMALL.items() if key in node})
    return build(SearchSpace, node, info or image_info())  # type: ignore[type-abstract,unused-ignore]


@cache
def trained_supernet(name: str) -> tuple[SearchSpace, Supernet]:
    """A supernet whose batch statistics are no longer the initial ones."""
    space = make_space(name)
    with seeded(1, name):
        supernet = space.build_supernet(SupernetOptions())
    gates = [Gate.soft(torch.full(shape, 1 / shape[1])) for shape in supernet.gate_shapes]
    with torch.no_grad():
        for _ in range(3):
            supernet(images_of(image_info()), gates)
    return space, supernet


def logits_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def test_spaces_are_found() -> None:
    assert {"darts", "nasbench201"} <= set(SPACES)


@every_space
def test_the_first_line_of_the_yaml_says_what_the_space_is(name: str) -> None:
    assert len(summary(options("space")[name])) > 20


@every_space
def test_a_genotype_file_brings_the_architecture_back(name: str, tmp_path: Path) -> None:
    space = make_space(name)
    architecture = space.sample(random.Random(0))
    file = tmp_path / "genotype.json"
    file.write_text(Genotype(space={}, choices=space.options_of(architecture)).to_json())
    genotype = read_genotype(str(file))
    assert isinstance(genotype, Genotype)
    assert space.architecture_of(genotype.choices) == architecture


@every_space
def test_a_text_form_brings_the_architecture_back(name: str) -> None:
    space = make_space(name)
    architecture = space.sample(random.Random(1))
    text = read_genotype(space.spell(architecture)) if has_text_form(space) else None
    assert text is None or (isinstance(text, GenotypeText) and space.parse(text) == architecture)


def has_text_form(space: SearchSpace) -> bool:
    return type(space).parse is not SearchSpace.parse


@every_space
def test_an_option_of_another_space_is_refused_by_name(name: str) -> None:
    space = make_space(name)
    options_of = space.options_of(space.sample(random.Random(0)))
    choice = space.choices[0].name
    with pytest.raises(GenotypeError, match="no option 'nonsense'"):
        space.architecture_of({**options_of, choice: "nonsense"})


@every_space
def test_choice_names_differ(name: str) -> None:
    names = [choice.name for choice in make_space(name).choices]
    assert len(set(names)) == len(names)


@every_space
def test_the_same_seed_samples_the_same_architectures(name: str) -> None:
    space = make_space(name)
    first, second = random.Random(3), random.Random(3)
    assert [space.sample(first) for _ in range(5)] == [space.sample(second) for _ in range(5)]


@every_space
def test_a_mutation_changes_exactly_one_pick(name: str) -> None:
    space, rng = make_space(name), random.Random(0)
    for _ in range(50):
        parent = space.sample(rng)
        child = space.mutate(parent, rng)
        assert sum(a != b for a, b in zip(parent.picks, child.picks, strict=True)) == 1
        assert space.architecture_of(space.options_of(child)) == child


@every_space
def test_a_canonical_spelling_is_its_own(name: str) -> None:
    space = make_space(name)
    canonical = space.canonical(space.sample(random.Random(0)))
    assert space.canonical(canonical) == canonical


@every_space
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 4), (32, 1), (8, 4), (5, 3), (33, 2)])
def test_a_network_gives_logits_for_images_of_many_shapes(name: str, size: int, channels: int) -> None:
    info = image_info(size, channels, num_classes=7)
    space, rng = make_space(name, info), random.Random(size)
    for _ in range(3):
        logits = logits_of(space.build(space.sample(rng))(images_of(info)))
        assert logits.shape == (4, 7)
        assert logits.isfinite().all()


@every_space
def test_images_too_small_for_the_reductions_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="too small"):
        make_space(name, image_info(size=1))


@every_space
def test_a_network_has_an_auxiliary_head_or_says_what_to_set(name: str) -> None:
    space = make_space(name)
    network, refusal = with_auxiliary_head(space)
    if network is None:
        assert "recipe.auxiliary_weight=0" in refusal
    else:
        logits, auxiliary_logits = network(images_of(image_info()))
        assert logits.shape == auxiliary_logits.shape == (4, 10)
        assert network.eval()(images_of(image_info())).shape == (4, 10)


def with_auxiliary_head(space: SearchSpace) -> tuple[nn.Module | None, str]:
    try:
        return space.build(space.sample(random.Random(0)), auxiliary_head=True), ""
    except UnsupportedError as error:
        return None, str(error)


@every_space
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_supernet_under_the_gates_of_an_architecture_computes_its_cut_out(
    name: str, training: bool
) -> None:
    space, supernet = trained_supernet(name)
    supernet.train(training)
    images, rng = images_of(image_info()), random.Random(0)
    for _ in range(20):
        architecture = space.sample(rng)
        network = supernet.cut_out(architecture)
        assert network.training == training
        with torch.no_grad():
            expected = network(images)
            actual = supernet(images, supernet.gates_of(architecture))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@every_space
def test_the_gates_of_an_architecture_discretise_to_it(name: str) -> None:
    space, supernet = trained_supernet(name)
    rng = random.Random(0)
    for _ in range(20):
        architecture = space.sample(rng)
        weights = [gate.weights for gate in supernet.gates_of(architecture)]
        assert supernet.discretise(weights) == space.canonical(architecture)


@every_space
def test_the_gates_of_an_architecture_have_the_shapes_the_supernet_says(name: str) -> None:
    space, supernet = trained_supernet(name)
    gates = supernet.gates_of(space.sample(random.Random(0)))
    assert tuple(tuple(gate.weights.shape) for gate in gates) == supernet.gate_shapes
    assert [len(names) for names in supernet.candidates] == [shape[1] for shape in supernet.gate_shapes]


@every_space
def test_every_row_of_a_gate_has_a_name_of_its_own(name: str) -> None:
    supernet = trained_supernet(name)[1]
    names = supernet.row_names
    assert [len(rows) for rows in names] == [shape[0] for shape in supernet.gate_shapes]
    assert len(set(sum(names, ()))) == sum(map(len, names))


@every_space
def test_a_cut_out_shares_no_weight_with_the_supernet(name: str) -> None:
    space, supernet = trained_supernet(name)
    network = supernet.cut_out(space.sample(random.Random(0)))
    shared = {tensor.data_ptr() for tensor in supernet.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in network.state_dict().values()}


@every_space
def test_every_gate_of_a_soft_supernet_gets_a_gradient(name: str) -> None:
    _, supernet = trained_supernet(name)
    weights = [torch.full(shape, 1 / shape[1], requires_grad=True) for shape in supernet.gate_shapes]
    supernet.train()
    logits = supernet(images_of(image_info()), [Gate.soft(weight) for weight in weights])
    gradients = torch.autograd.grad(logits.square().sum(), weights)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def all_of_a_step(supernet: Supernet, gates: list[Gate]) -> dict[str, Tensor]:
    """Logits, every gradient and the batch statistics after one pass, in float64."""
    supernet.double().train()
    named = {f"gate {k}": gate.weights for k, gate in enumerate(gates)} | dict(supernet.named_parameters())
    logits = supernet(images_of(image_info()).double(), gates)
    gradients = torch.autograd.grad(logits.square().sum(), list(named.values()), materialize_grads=True)
    return {"logits": logits, **dict(zip(named, gradients, strict=True)), **dict(supernet.named_buffers())}


@every_space
@pytest.mark.parametrize("form", ["side_by_side", "elastic"])
def test_a_supernet_with_checkpoints_computes_the_same_and_counts_each_batch_once(
    name: str, form: Form
) -> None:
    space, steps = make_space(name), []
    for checkpoint in (False, True):
        with seeded(1, name):
            try:
                supernet = space.build_supernet(SupernetOptions(form=form, checkpoint=checkpoint))
            except UnsupportedError:
                pytest.skip("this space has no such form")
        path = supernet.gates_of(space.sample(random.Random(0)))
        gates = [Gate(gate.weights.double().requires_grad_(), gate.active) for gate in path]
        steps.append(all_of_a_step(supernet, gates))
    plain, checkpointed = steps
    for key, value in plain.items():
        torch.testing.assert_close(checkpointed[key], value, atol=1e-12, rtol=1e-12, msg=key)


@every_space
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_shapes_are_known_without_memory_or_arithmetic(name: str, plain: bool) -> None:
    """The meta device, on which torch has no autocast, nor all operations of a CPU."""
    space, info = make_space(name), image_info()
    with torch.device("meta"):
        supernet = space.build_supernet(SupernetOptions(plain=plain))
    gates = [Gate.soft(torch.full(shape, 1 / shape[1], device="meta")) for shape in supernet.gate_shapes]
    with torch.no_grad():
        logits = logits_of(supernet.eval()(images_of(info).to("meta"), gates))
    assert logits.shape == (4, 10)


@every_space
def test_no_edge_of_a_drawing_leads_back_to_an_input(name: str) -> None:
    space = make_space(name)
    graphs = space.cells(space.sample(random.Random(0)))
    assert graphs
    for graph in graphs.values():
        targets = {target for _, target, _ in graph.edges}
        assert not targets & set(graph.inputs)


@every_space
def test_every_row_of_a_gate_belongs_to_one_group(name: str) -> None:
    _, supernet = trained_supernet(name)
    rows = [row for group in supernet.row_groups for row in group]
    expected = [(gate, row) for gate, (count, _) in enumerate(supernet.gate_shapes) for row in range(count)]
    assert sorted(rows) == expected


@every_space
def test_a_candidate_has_modules_of_its_own_or_a_reason(name: str) -> None:
    _, supernet = trained_supernet(name)
    within, seen = {id(module) for module in supernet.modules()}, set[int]()
    if refusal := refusal_of(lambda: supernet.candidate_modules(0, 0, 0)):
        assert "space=" in refusal
        return
    for gate, (rows, count) in enumerate(supernet.gate_shapes):
        for row, candidate in itertools.product(range(rows), range(count)):
            ids = {id(module) for module in supernet.candidate_modules(gate, row, candidate)}
            assert ids <= within - seen
            seen |= ids


@every_space
def test_a_candidates_final_modules_are_what_the_published_network_has(name: str) -> None:
    space, supernet = trained_supernet(name)
    if refusal_of(lambda: supernet.final_modules(0, 0, 0)):
        return
    architecture = space.sample(random.Random(2))
    published = Counter(str(module) for module in space.build(architecture).modules())
    picked = Counter(
        str(module)
        for k, gate in enumerate(supernet.gates_of(architecture))
        for row, active in enumerate(gate.active)
        for candidate in active
        if supernet.candidates[k][candidate] != "none"
        for module in supernet.final_modules(k, row, candidate)
        if not isinstance(module, nn.Identity)
    )
    assert picked <= published


@every_space
@pytest.mark.parametrize("form", ["side_by_side", "elastic"])
def test_a_supernet_has_a_form_or_names_a_space_that_has_it(name: str, form: Form) -> None:
    refusal = refusal_of(lambda: make_space(name).build_supernet(SupernetOptions(form=form)))
    assert refusal is None or "space=" in refusal


@every_space
def test_a_supernet_of_partial_channels_computes_its_cut_out_or_names_a_space_that_does(name: str) -> None:
    space, options = make_space(name), SupernetOptions(partial_channels=2)
    if refusal := refusal_of(lambda: space.build_supernet(options)):
        assert "space=" in refusal
        return
    with seeded(1, name):
        supernet, whole = space.build_supernet(options), space.build_supernet(SupernetOptions())
    assert num_weights(supernet) < num_weights(whole)
    images, rng = images_of(image_info()), random.Random(0)
    for _ in range(10):
        architecture = space.sample(rng)
        network = supernet.cut_out(architecture)
        with torch.no_grad():
            expected = network(images)
            actual = supernet(images, supernet.gates_of(architecture))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def num_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def refusal_of(act: Callable[[], object]) -> str | None:
    """The sentence that it is refused with; None where it is done."""
    try:
        act()
    except UnsupportedError as error:
        return str(error)
    return None
