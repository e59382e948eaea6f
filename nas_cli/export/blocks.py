"""A captured program cut into the blocks of its network: stem, cells, stages, classifier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch.export import ExportedProgram
from torch.fx import Node

DEPTH = 2
"""`cells.3` and `stages.1.0` stand so far below the network in its modules."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive operators of one part of the network.

    `inputs` are made before and `outputs` are read after it; the rest stays within.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


def blocks_of(program: ExportedProgram) -> list[Block]:
    """In the order of computation; what is between two blocks is a block with an empty name.

    What no logit depends on, such as a cell's input that its edges leave out, is left out.
    """
    program.graph.eliminate_dead_code()
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    names = iter(_unique([name for name, _ in groupby(nodes, key=_block_name)]))
    return [_block(next(names), tuple(group)) for _, group in groupby(nodes, key=_block_name)]


def tensors_of(node: Node) -> list[Node]:
    """The values that an operator reads, weights excluded."""
    return [other for other in node.all_input_nodes if not is_weight(other)]


def is_weight(node: Node) -> bool:
    """Weights and statistics are arguments of the captured program, as the images are."""
    return node.op == "placeholder" and node.name.startswith(("p_", "b_"))


def _block(name: str, nodes: Sequence[Node]) -> Block:
    inside = set(nodes)
    read = dict.fromkeys(other for node in nodes for other in tensors_of(node) if other not in inside)
    used = [node for node in nodes if any(user not in inside for user in node.users)]
    return Block(name, tuple(nodes), tuple(read), tuple(used))


def _block_name(node: Node) -> str:
    """The module at the depth of blocks; its own modules belong to it."""
    modules = [path for path, _ in node.meta["nn_module_stack"].values()]
    return modules[DEPTH] if len(modules) > DEPTH else ""


def _unique(names: Sequence[str]) -> Iterator[str]:
    """A module that is called twice is two blocks."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if not name or seen[name] == 1 else f"{name}.{seen[name]}"
