"""One readable module file that needs torch alone, and its weights."""

import importlib.util
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from jinja2 import Environment, PackageLoader
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from nas_cli.data import ImageData
from nas_cli.export.blocks import Block, blocks_of, is_weight
from nas_cli.export.export_format import ExportFormat
from nas_cli.export.program import INPUT, program_of
from nas_cli.export.statements import Body, Writer
from nas_cli.model import TrainedNetwork

WIDTH = 110


class PythonModule(ExportFormat):
    """`network.load("weights.pt")` is the network, `predict` of it takes raw pixels."""

    files = ("network.py", "weights.pt")
    tolerance = 1e-6

    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        source, weights = module_of(program_of(trained), trained)
        (folder / "network.py").write_text(source, encoding="utf-8")
        torch.save(weights, folder / "weights.pt")
        module = _imported(folder / "network.py")
        return cast(Callable[[Tensor], Tensor], module.load(folder / "weights.pt"))


def module_of(program: ExportedProgram, trained: TrainedNetwork) -> tuple[str, dict[str, Tensor]]:
    """The source, and the weights under the names that it gives them."""
    network = _Network(_weights_of(program), {_images_of(program): INPUT})
    for block in blocks_of(program):
        network.add(block)
    info = trained.info
    source = (
        Environment(loader=PackageLoader("nas_cli.export"), keep_trailing_newline=True, trim_blocks=True)
        .get_template("network.py.jinja")
        .render(
            network=network,
            class_names=_wrapped([repr(name) for name in info.class_names]),
            mean=_wrapped([repr(value) for value in info.mean]),
            std=_wrapped([repr(value) for value in info.std]),
            image=(info.channels, info.size),
            logits=network.names[_logits_of(program)],
        )
    )
    return source, network.weights


@dataclass
class _Network:
    """What the file says: classes of blocks, the blocks that the network has, and how it computes.

    `names`: how the values between blocks are called. Blocks of the same layers and lines share a class.
    """

    tensors: dict[Node, Tensor]
    names: dict[Node, str]
    classes: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        if block.name:
            self._add_member(block)
        else:
            self._add_lines(block)

    def _add_member(self, block: Block) -> None:
        inputs = {node: f"x{k}" for k, node in enumerate(block.inputs, 1)}
        body = Writer(self.tensors, inputs, len(inputs) + 1).write(block)
        member = block.name.removeprefix("skeleton.").replace(".", "_")
        text = _class_body(list(inputs.values()), body)
        self.classes.setdefault(text, "".join(part.capitalize() for part in member.split("_")))
        self.members[member] = self.classes[text]
        self.weights |= {f"{member}.{name}": tensor for name, tensor in body.weights.items()}
        given = ", ".join(self.names[node] for node in block.inputs)
        for node in block.outputs:
            self.names[node] = f"x{len(self.names)}"
        results = ", ".join(self.names[node] for node in block.outputs)
        self.lines.append(f"{results} = self.{member}({given})")

    def _add_lines(self, block: Block) -> None:
        body = Writer(self.tensors, self.names, len(self.names)).write(block)
        self.names |= dict(zip(block.outputs, body.results, strict=True))
        self.members |= body.layers
        self.weights |= body.weights
        self.lines += body.lines


def _class_body(inputs: list[str], body: Body) -> str:
    layers = "".join(f"        self.{name} = {made}\n" for name, made in body.layers.items())
    made = f"    def __init__(self) -> None:\n        super().__init__()\n{layers}\n" if layers else ""
    several = len(body.results) > 1
    kind = f"tuple[{', '.join(['Tensor'] * len(body.results))}]" if several else "Tensor"
    arguments = ", ".join(f"{name}: Tensor" for name in inputs)
    lines = "".join(f"        {line}\n" for line in [*body.lines, f"return {', '.join(body.results)}"])
    return f"{made}    def forward(self, {arguments}) -> {kind}:\n{lines}"


def _wrapped(entries: list[str]) -> str:
    """A tuple, in lines."""
    text = f"({', '.join(entries)},)" if len(entries) == 1 else f"({', '.join(entries)})"
    return "\n    ".join(textwrap.wrap(text, WIDTH - 20, break_long_words=False))


def _weights_of(program: ExportedProgram) -> dict[Node, Tensor]:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {
        node: cast(Tensor, program.state_dict[names[node.name]]).detach()
        for node in program.graph.nodes
        if node.op == "placeholder" and is_weight(node)
    }


def _images_of(program: ExportedProgram) -> Node:
    (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and not is_weight(node))
    return cast(Node, node)


def _logits_of(program: ExportedProgram) -> Node:
    return cast(Node, program.graph.output_node().args[0][0])


def _imported(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("exported_network", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
