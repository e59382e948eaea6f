"""Python for one block: the layers it holds, and the lines that compute with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from nas_cli.errors import UnsupportedError
from nas_cli.export.blocks import Block, tensors_of

WIDTH = 90
"""A longer expression gets a line of its own."""
aten = torch.ops.aten

Arguments = Mapping[str, object]
"""Of an operator, by their names, with its defaults."""


@dataclass
class Body:
    """`layers`: {attribute: how it is made}; `weights`: their tensors by name; `results`: what leaves."""

    layers: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    results: tuple[str, ...] = ()


class Writer:
    """Writes the operators of a block one by one; what one operator reads once is written within it.

    `weights`: what is behind the program's weights. `names`: those of the block's inputs. New values are
    called x and a number from `first` on.
    """

    def __init__(self, weights: Mapping[Node, Tensor], names: Mapping[Node, str], first: int) -> None:
        self.weights, self.texts, self.next = weights, dict(names), first
        self.body = Body()

    def write(self, block: Block) -> Body:
        for node in block.nodes:
            text = self._expression(node)
            if not (text.isidentifier() or (_goes_inside(node, block) and len(text) <= WIDTH)):
                self.body.lines.append(f"x{self.next} = {text}")
                text, self.next = f"x{self.next}", self.next + 1
            self.texts[node] = text
        self.body.results = tuple(self.texts[node] for node in block.outputs)
        return self.body

    def text(self, argument: object) -> str:
        """How a value is written: a tensor, a number, a list of either."""
        if isinstance(argument, Node):
            if argument not in self.texts:
                raise UnsupportedError(f"{argument} is read past any layer. {_ANOTHER_FORMAT}")
            return self.texts[argument]
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self.text(entry) for entry in argument)}]"
        return str(argument) if isinstance(argument, torch.dtype) else repr(argument)

    def _expression(self, node: Node) -> str:
        arguments = arguments_of(node)
        if node.target in LAYERS:
            return f"self.{self._add_layer(node.target, arguments)}({self.text(arguments['input'])})"
        if node.target in CALLS:
            return CALLS[node.target](self, arguments)
        values = ", ".join(f"{name}={self.text(value)}" for name, value in arguments.items())
        return f"torch.ops.{node.target}({values})"

    def _add_layer(self, operator: object, arguments: Arguments) -> str:
        kind, make, roles = LAYERS[operator]
        count = sum(name.startswith(kind) for name in self.body.layers) + 1
        name = f"{kind}{count}"
        weights = {
            role: self.weights[weight]
            for role, argument in roles.items()
            if isinstance(weight := arguments[argument], Node)
        }
        self.body.layers[name] = make(weights, arguments)
        self.body.weights |= {f"{name}.{role}": tensor for role, tensor in weights.items()}
        if kind == "norm":
            self.body.weights[f"{name}.num_batches_tracked"] = torch.tensor(0)
        return name


def arguments_of(node: Node) -> Arguments:
    """Raises UnsupportedError for what is no operator of torch's library."""
    if not isinstance(node.target, torch._ops.OpOverload):
        raise UnsupportedError(f"There is no spelling for {node.target}. {_ANOTHER_FORMAT}")
    declared = node.target._schema.arguments
    values = {one.name: one.default_value for one in declared if one.has_default_value()}
    values |= dict(zip((one.name for one in declared), node.args, strict=False))
    return values | node.kwargs


_ANOTHER_FORMAT = "Use format=torch_export, which needs none."


def _goes_inside(node: Node, block: Block) -> bool:
    """Sums stay outside: they would need brackets."""
    readers = [user for user in node.users for read in tensors_of(user) if read is node]
    return node.target != aten.add.Tensor and node not in block.outputs and len(readers) == 1


# Layers, which have weights


def _conv(weights: Mapping[str, Tensor], arguments: Arguments) -> str:
    out_channels, in_channels, *kernel = weights["weight"].shape
    groups = arguments["groups"]
    assert isinstance(groups, int)
    options = {
        "stride": (_pair(arguments["stride"]), "1"),
        "padding": (_pair(arguments["padding"]), "0"),
        "dilation": (_pair(arguments["dilation"]), "1"),
        "groups": (str(groups), "1"),
        "bias": (str("bias" in weights), "True"),
    }
    return f"nn.Conv2d({in_channels * groups}, {out_channels}, {_pair(kernel)}{_options(options)})"


def _norm(weights: Mapping[str, Tensor], arguments: Arguments) -> str:
    options = {
        "eps": (repr(arguments["eps"]), "1e-05"),
        "affine": (str("weight" in weights), "True"),
    }
    return f"nn.BatchNorm2d({len(weights['running_mean'])}{_options(options)})"


def _linear(weights: Mapping[str, Tensor], _: Arguments) -> str:
    out_features, in_features = weights["weight"].shape
    return f"nn.Linear({in_features}, {out_features}{_options({'bias': (str('bias' in weights), 'True')})})"


LAYERS: Mapping[object, tuple[str, Callable[[Mapping[str, Tensor], Arguments], str], Mapping[str, str]]] = {
    aten.conv2d.default: ("conv", _conv, {"weight": "weight", "bias": "bias"}),
    aten.batch_norm.default: (
        "norm",
        _norm,
        {name: name for name in ("weight", "bias", "running_mean", "running_var")},
    ),
    aten.linear.default: ("linear", _linear, {"weight": "weight", "bias": "bias"}),
}
"""What it is called, how it is made, and its weights with their names as arguments of the operator."""


# Operators with a common spelling; all others are written by their full names


def _relu(writer: Writer, arguments: Arguments) -> str:
    return f"torch.relu({writer.text(arguments['self'])})"


def _relu6(writer: Writer, arguments: Arguments) -> str:
    return f"F.relu6({writer.text(arguments['self'])})"


def _add(writer: Writer, arguments: Arguments) -> str:
    factor = "" if arguments["alpha"] == 1 else f"{arguments['alpha']} * "
    return f"{writer.text(arguments['self'])} + {factor}{writer.text(arguments['other'])}"


def _cat(writer: Writer, arguments: Arguments) -> str:
    return f"torch.cat({writer.text(arguments['tensors'])}, dim={arguments['dim']})"


def _mean(writer: Writer, arguments: Arguments) -> str:
    kept = ", keepdim=True" if arguments["keepdim"] else ""
    return f"{writer.text(arguments['self'])}.mean({writer.text(arguments['dim'])}{kept})"


def _pad(writer: Writer, arguments: Arguments) -> str:
    images, widths = writer.text(arguments["self"]), arguments["pad"]
    assert isinstance(widths, Sequence)
    return f"F.pad({images}, {tuple(widths)})" if any(widths) else images


def _slice(writer: Writer, arguments: Arguments) -> str:
    """`x[:, :, ::2]` of dimension 2, and then of 3 is `x[:, :, ::2][:, :, :, ::2]`."""
    dim, start, end, step = (arguments[name] for name in ("dim", "start", "end", "step"))
    assert isinstance(dim, int)
    bounds = f"{start or ''}:{'' if end is None or end == ENDLESS else end}{'' if step == 1 else f':{step}'}"
    images = writer.text(arguments["self"])
    return images if bounds == ":" else f"{images}[{':, ' * dim}{bounds}]"


def _max_pool(writer: Writer, arguments: Arguments) -> str:
    options = {
        "stride": (_pair(arguments["stride"]), ""),
        "padding": (_pair(arguments["padding"]), "0"),
        "dilation": (_pair(arguments["dilation"]), "1"),
        "ceil_mode": (str(arguments["ceil_mode"]), "False"),
    }
    images = writer.text(arguments["self"])
    return f"F.max_pool2d({images}, {_pair(arguments['kernel_size'])}{_options(options)})"


def _avg_pool(writer: Writer, arguments: Arguments) -> str:
    options = {
        "stride": (_pair(arguments["stride"]), ""),
        "padding": (_pair(arguments["padding"]), "0"),
        "ceil_mode": (str(arguments["ceil_mode"]), "False"),
        "count_include_pad": (str(arguments["count_include_pad"]), "True"),
        "divisor_override": (str(arguments["divisor_override"]), "None"),
    }
    images = writer.text(arguments["self"])
    return f"F.avg_pool2d({images}, {_pair(arguments['kernel_size'])}{_options(options)})"


CALLS: Mapping[object, Callable[[Writer, Arguments], str]] = {
    aten.relu.default: _relu,
    aten.relu6_.default: _relu6,
    aten.relu6.default: _relu6,
    aten.add.Tensor: _add,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
    aten.pad.default: _pad,
    aten.slice.Tensor: _slice,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
}
ENDLESS = 2**63 - 1
"""How the program writes a slice to the end."""


def _pair(value: object) -> str:
    """`3` for the same of both sides."""
    assert isinstance(value, Sequence)
    return str(value[0]) if len(set(value)) == 1 else repr(tuple(value))


def _options(options: Mapping[str, tuple[str, str]]) -> str:
    """Those that are not what they are by default: {name: (value, default)}."""
    return "".join(f", {name}={value}" for name, (value, default) in options.items() if value != default)
