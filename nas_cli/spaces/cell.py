"""The ten-operation cell: every node reads one earlier state through one operation."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice
from nas_cli.data import ImageInfo
from nas_cli.layers.cell import DiscreteCell
from nas_cli.layers.checkpointing import step_of
from nas_cli.layers.drop_path import DropPath
from nas_cli.layers.head import AuxiliaryHead, Classifier
from nas_cli.layers.node_cell import NodeCell, NodePlan
from nas_cli.layers.operations import FactorizedReduce, ReluConvBN
from nas_cli.layers.skeleton import SkeletonNetwork, Step
from nas_cli.layers.sliced import FIXED, OPERATIONS, Operation, make_operation
from nas_cli.layers.stem import check_image_size, halved, make_stem, size_after_stem
from nas_cli.space import CellGraph, SearchSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

ZERO_OF_ZERO = ("max_pool3x3", "avg_pool3x3", "skip_connect")
NUM_INPUTS = 2


def _check_subset(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if not operations:
        raise ValueError("nothing is left to search: name some, or leave the setting out for all ten")
    if operations == ("none",):
        raise ValueError("none alone computes nothing: name at least one more")
    if twice := sorted({name for name in operations if operations.count(name) > 1}):
        raise ValueError(f"{twice[0]} is there more than once: name each operation once")
    return operations


class TenOperationCell(SearchSpace):
    """Cells whose nodes each read one earlier state through one operation; all cells are alike.

    `node2.input` is the number of the state that the first node reads, `node2.operation` what it does to it:
    states 0 and 1 are the outputs of the two cells before, state 2 is the first node. A cell's output is its
    nodes side by side, brought back to its width by a 1x1 convolution. The cells at one and at two thirds of
    the depth work at half the size and twice the channels, and there is no reduction cell: what a cell
    reads is brought to its size and width before its nodes see it, so any wiring fits.

    The space is of no paper. The operations are those of DARTS (arXiv:1806.09055) and NASNet
    (arXiv:1707.07012) without dilation, with convolutions that normalise and rectify last; the network
    around the cells is that of DARTS.

    Raises UnsupportedError for images too small for two reductions.
    """

    def __init__(
        self,
        info: ImageInfo,
        *,
        num_nodes: Annotated[int, Field(ge=1, le=8)] = 4,
        num_cells: Annotated[int, Field(ge=3)] = 5,
        channels: Annotated[int, Field(ge=2)] = 8,
        operations: Annotated[tuple[Operation, ...], AfterValidator(_check_subset)] = OPERATIONS,
    ) -> None:
        check_image_size(info, num_reductions=2)
        self.info = info
        self.num_cells = num_cells
        self.channels = channels
        self.operations = operations
        self.plan = NodePlan(NUM_INPUTS, num_nodes, operations)
        self.choices = tuple(
            choice
            for node in self.plan.nodes
            for choice in (
                Choice(f"node{node}.input", tuple(range(node))),
                Choice(f"node{node}.operation", operations),
            )
        )

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        """Affine norms, and drop path; the supernet has neither."""
        skeleton = self.make_skeleton(affine=True)
        wiring = self.wiring(architecture)
        cells = [self._discrete_cell(wiring, channels) for channels in skeleton.cell_channels]
        return SkeletonNetwork(skeleton, cells, self._auxiliary_head() if auxiliary_head else None)

    def build_supernet(self, options: SupernetOptions) -> "TenOperationSupernet":
        return TenOperationSupernet(self, options)

    def make_skeleton(self, *, affine: bool) -> "JoiningSkeleton":
        return JoiningSkeleton(
            self.info,
            channels=self.channels,
            num_cells=self.num_cells,
            num_nodes=self.plan.num_nodes,
            affine=affine,
        )

    def _discrete_cell(self, wiring: Sequence[tuple[int, str]], channels: int) -> DiscreteCell:
        edges = [
            (source, node, _final_operation(name, channels))
            for node, (source, name) in zip(self.plan.nodes, wiring, strict=True)
            if name != "none"
        ]
        return DiscreteCell(NUM_INPUTS, self.plan.num_nodes, edges)

    def _auxiliary_head(self) -> AuxiliaryHead:
        size = halved(size_after_stem(self.info), 2)
        return AuxiliaryHead(4 * self.channels, size, self.info.num_classes)

    def wiring(self, architecture: Architecture) -> list[tuple[int, str]]:
        """For each node the state it reads and the operation on it."""
        picks = architecture.picks
        return [
            (source, self.operations[pick]) for source, pick in zip(picks[0::2], picks[1::2], strict=True)
        ]

    def canonical(self, architecture: Architecture) -> Architecture:
        """Nodes that equal an earlier state are read through, and nodes of zeros are `none` of state 0."""
        same, zero, picks = list(range(NUM_INPUTS)), None, []
        for node, (read, name) in zip(self.plan.nodes, self.wiring(architecture), strict=True):
            source, operation = same[read], name
            if name == "none" or (source == zero and name in ZERO_OF_ZERO):
                source, operation = 0, "none"
                zero = node if zero is None else zero
                same.append(zero)
            else:
                same.append(source if name == "skip_connect" else node)
            picks += [source, self.operations.index(operation)]
        return Architecture(tuple(picks))

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        nodes = tuple(str(index) for index in range(self.plan.num_nodes))
        names = ("c_{k-2}", "c_{k-1}", *nodes)
        wiring = zip(self.plan.nodes, self.wiring(architecture), strict=True)
        edges = tuple((names[source], names[node], operation) for node, (source, operation) in wiring)
        return {"cell": CellGraph(names[:NUM_INPUTS], edges, nodes)}


def _final_operation(name: str, channels: int) -> nn.Module:
    """A dropped identity would leave a cell without any path, so it is kept."""
    operation = make_operation(name, channels, FIXED)
    return operation if name == "skip_connect" else nn.Sequential(operation, DropPath())


class JoiningSkeleton(nn.Module):
    """What is around the nodes: stem, what brings inputs to a cell's width and size, joins, classifier."""

    def __init__(
        self, info: ImageInfo, *, channels: int, num_cells: int, num_nodes: int, affine: bool
    ) -> None:
        super().__init__()
        self.stem = make_stem(info, channels)
        halvings = [(k >= num_cells // 3) + (k >= 2 * num_cells // 3) for k in range(num_cells)]
        self.cell_channels = [channels * 2**count for count in halvings]
        # Of the stem's two states, then of every cell.
        depths = [-1 if self.stem.shrinks else 0, 0, *halvings]
        widths = [self.stem.channels, self.stem.channels, *self.cell_channels]
        self.before_last, self.last = (
            nn.ModuleList(
                _reader(widths[k + back], widths[k + 2], depths[k + 2] - depths[k + back], affine)
                for k in range(num_cells)
            )
            for back in (0, 1)
        )
        self.joins = nn.ModuleList(
            ReluConvBN(num_nodes * width, width, 1, 1, 0, affine=affine) for width in self.cell_channels
        )
        self.classifier = Classifier(widths[-1], info.num_classes)

    def forward(self, images: Tensor, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """Logits, and the maps at two thirds of the depth, which an auxiliary head reads."""
        before_last, last = self.stem(images)
        layers = zip(steps, self.before_last, self.last, self.joins, strict=True)
        for index, (step, first, second, join) in enumerate(layers):
            joined = join(torch.cat(step([first(before_last), second(last)]), dim=1))
            before_last, last = last, joined
            if index == 2 * len(steps) // 3:
                maps = joined
        logits: Tensor = self.classifier(last)
        return logits, maps


def _reader(in_channels: int, channels: int, halvings: int, affine: bool) -> nn.Module:
    """Brings the output of an earlier cell, `halvings` times larger in powers of two, to a cell's inputs."""
    if not halvings:
        return ReluConvBN(in_channels, channels, 1, 1, 0, affine=affine)
    widths = [in_channels, *[channels] * (halvings - 1)]
    return nn.Sequential(*(FactorizedReduce(width, channels, affine=affine) for width in widths))


class TenOperationSupernet(Supernet):
    """All cells of the space with shared weights, norms without scale and shift.

    Gates: two a node, of one row each and shared by all cells: the weights of the states before it, then
    those of the operations.
    """

    def __init__(self, space: TenOperationCell, options: SupernetOptions) -> None:
        super().__init__()
        options.form_of("side_by_side")
        options.refuse_partial_channels()
        self.space = space
        self.checkpoint = options.checkpoint
        self.skeleton = space.make_skeleton(affine=False)
        self.cells = nn.ModuleList(
            NodeCell(space.plan, channels, plain=options.plain) for channels in self.skeleton.cell_channels
        )
        self.candidates = space.plan.gate_candidates
        self.gate_shapes = tuple((1, len(names)) for names in self.candidates)

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        steps = [partial(step_of(cell, checkpointed=self.checkpoint), gates=gates) for cell in self.cells]
        logits: Tensor
        logits, _ = self.skeleton(images, steps)
        return logits

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (f"{kind}.node{node}",) for node in self.space.plan.nodes for kind in ("input", "operation")
        )

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        """Those of an operation; a state that a node may read costs nothing by itself."""
        node, is_operation = divmod(gate, 2)
        cells = cast(Iterable[NodeCell], self.cells)
        return [cell.operation(node, candidate) for cell in cells] if is_operation else []

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        _, is_operation = divmod(gate, 2)
        name, widths = self.candidates[gate][candidate], self.skeleton.cell_channels
        return [_final_operation(name, channels) for channels in widths] if is_operation else []

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        like = next(self.parameters())
        return [
            Gate.one_hot([pick], count, like)
            for pick, (_, count) in zip(architecture.picks, self.gate_shapes, strict=True)
        ]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The strongest state and the strongest operation of every node, `none` among them."""
        strongest = torch.stack([rows[0].argmax() for rows in weights]).tolist()
        return self.space.canonical(Architecture(tuple(strongest)))

    def cut_out(self, architecture: Architecture) -> SkeletonNetwork:
        wiring, cells = self.space.wiring(architecture), cast(Iterable[NodeCell], self.cells)
        network = SkeletonNetwork(deepcopy(self.skeleton), [cell.cut_out(wiring) for cell in cells])
        return network.to(next(self.parameters())).train(self.training)
