"""Separable convolutions on all edges from states that are ready together, as blocks: see `blocks.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.layers.blocks import BlockAffineRelu, BlockMix, stack
from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.layers.depthwise_functions import Geometry
from nas_cli.layers.edge_convs import ConvolveApart, ConvolveBlocks, Reading, Size
from nas_cli.layers.folded_norm import Folded, fold_groups
from nas_cli.layers.forms import Forms, splits
from nas_cli.layers.operations import SeparableConv, SeparableStack
from nas_cli.layers.pointwise import pixels
from nas_cli.layers.products import lie_side_by_side
from nas_cli.layers.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Edges:
    """`sources` of all edges of one target, by number; the same for each of `num_targets` targets."""

    sources: tuple[int, ...]
    num_targets: int

    @property
    def count(self) -> int:
        return len(self.sources) * self.num_targets


@dataclass(frozen=True, slots=True)
class EdgeImages:
    """Blocks (edges, pixels, channels), and how their pixels are images."""

    blocks: Tensor
    size: Size

    @staticmethod
    def side_by_side(images: Tensor, count: int) -> "EdgeImages":
        n, _, h, w = images.shape
        return EdgeImages(pixels(images).unflatten(1, (count, -1)).transpose(0, 1), (n, h, w))

    def convolve(self, stages: Sequence[SeparableConv]) -> "EdgeImages":
        """Each edge's next depthwise convolution, which keeps the size."""
        weights = [stage.depthwise.weight for stage in stages]
        first, count = stages[0], len(stages)
        if lie_side_by_side(self.blocks):
            flat = self.blocks.transpose(0, 1).reshape(*self.size, -1)
            convolved = depthwise_conv2d(
                flat.permute(0, 3, 1, 2),
                stack(weights).flatten(0, 1),
                stride=first.stride,
                padding=first.padding,
                dilation=first.dilation,
            )
            return EdgeImages.side_by_side(convolved, count)
        geometry = Geometry(first.kernel, first.stride, first.padding, first.dilation)
        return EdgeImages(ConvolveBlocks.apply(geometry, self.size, self.blocks, *weights), self.size)


class JointForms:
    """The forms of several states, and what reads them on all edges."""

    def __init__(self, forms: Sequence[Forms], edges: Edges) -> None:
        self.forms = forms
        self.edges = edges
        self.joined: dict[str, Tensor] = {}

    @property
    def statistics(self) -> Statistics:
        return self.forms[0].statistics

    def convolve(
        self, form: str, weights: Sequence[Tensor], stride: int, padding: int, dilation: int
    ) -> EdgeImages:
        """Each edge's depthwise convolution (c, 1, kernel, kernel) of its source's form."""
        if stride == 1:
            convolved = depthwise_conv2d(
                self._join(form),
                stack(weights).flatten(0, 1),
                stride=stride,
                padding=padding,
                dilation=dilation,
            )
            return EdgeImages.side_by_side(convolved, self.edges.count)
        geometry = Geometry(weights[0].shape[2], stride, padding, dilation)
        reading = Reading(self.edges.sources * self.edges.num_targets, geometry)
        images = self._each(form)
        n, _, h, w = images[0].shape
        blocks = ConvolveApart.apply(reading, *images, *weights)
        return EdgeImages(blocks, (n, -(-h // stride), -(-w // stride)))

    def _each(self, form: str) -> list[Tensor]:
        return [getattr(forms, form) for forms in self.forms]

    def _join(self, form: str) -> Tensor:
        """The sources of all edges, side by side."""
        if form not in self.joined:
            images = self._each(form)
            n, channels, h, w = images[0].shape
            sources = pixels(torch.cat(images, 1) if len(images) > 1 else images[0])
            slots = len(self.edges.sources) // len(images)
            sizes = (-1, self.edges.num_targets, len(images), slots, channels)
            copied = sources.view(-1, 1, len(images), 1, channels).expand(sizes)
            self.joined[form] = copied.reshape(n, h, w, -1).permute(0, 3, 1, 2)
        return self.joined[form]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A separable convolution on all edges, before its last 1x1 convolution."""

    images: EdgeImages
    split: bool
    stages: Sequence[tuple[SeparableConv, ...]]
    gates: Tensor


def push_stacks(
    forms: JointForms, candidates: Sequence[tuple[Sequence[SeparableStack], Tensor]], start: Tensor | None
) -> Tensor:
    """What separable convolutions, each with its gates (e), bring to the targets, and what is there already.

    (targets, pixels, channels). All first stages, then all last ones, each batch normalised in one go.
    """
    pending = [_start(forms, stacks, gates) for stacks, gates in candidates]
    repeated = [stack for stack in pending if len(stack.stages[0]) > 1]
    pending = [stack for stack in pending if len(stack.stages[0]) == 1]
    while repeated:
        advanced = _next_stage(repeated, forms.statistics)
        repeated = [stack for stack in advanced if len(stack.stages[0]) > 1]
        pending += [stack for stack in advanced if len(stack.stages[0]) == 1]
    return _finish(pending, forms, start)


def _start(forms: JointForms, stacks: Sequence[SeparableStack], gates: Tensor) -> _Pending:
    stages = [operation.stages for operation in stacks]
    first = stages[0][0]
    form, dilation, stride = "rectified", first.dilation, first.stride
    split = dilation == 2 and stride == 1 and len(stages[0]) == 1 and splits(forms.forms[0].state)
    if split:
        form, dilation = "phases", 1
    elif dilation == 2 and stride == 2:
        form, dilation, stride = "even", 1, 1
    weights = [edge[0].depthwise.weight for edge in stages]
    images = forms.convolve(form, weights, stride, dilation * (first.kernel // 2), dilation)
    return _Pending(images, split, stages, gates)


def _next_stage(stacks: Sequence[_Pending], statistics: Statistics) -> list[_Pending]:
    folded = _fold(stacks, None, statistics)
    rectified = BlockAffineRelu.apply(folded.matrices, folded.biases, *folded.batches)
    advanced = []
    for pending, blocks in zip(stacks, rectified, strict=True):
        stages = [edge[1:] for edge in pending.stages]
        images = EdgeImages(blocks, pending.images.size).convolve([edge[0] for edge in stages])
        advanced.append(_Pending(images, False, stages, pending.gates))
    return advanced


def _fold(stacks: Sequence[_Pending], gates: Tensor | None, statistics: Statistics) -> Folded:
    layers = [edge[0] for pending in stacks for edge in pending.stages]
    points = stack([layer.pointwise.weight for layer in layers]).flatten(2)
    norms: list[nn.BatchNorm2d] = [layer.norm for layer in layers]
    return fold_groups([pending.images.blocks for pending in stacks], points, norms, gates, statistics)


def _finish(stacks: Sequence[_Pending], forms: JointForms, start: Tensor | None) -> Tensor:
    """Those in the layout of `split_phases` first: they are brought back together."""
    stacks = sorted(stacks, key=lambda pending: not pending.split)
    folded = _fold(stacks, torch.cat([pending.gates for pending in stacks]), forms.statistics)
    num_sources, num_split = len(forms.edges.sources), sum(pending.split for pending in stacks)
    bias = folded.biases.unflatten(0, (len(stacks), -1, num_sources)).sum((0, 2))
    matrices, groups = folded.matrices, folded.batches
    if num_split == len(stacks):
        return _merge(
            BlockMix.apply(num_sources, None, bias, matrices, *groups), stacks[0].images.size, start
        )
    if num_split:
        of_split, matrices = matrices.tensor_split([num_split * forms.edges.count])
        phases = BlockMix.apply(num_sources, None, None, of_split, *groups[:num_split])
        start = _merge(phases, stacks[0].images.size, start)
    total: Tensor = BlockMix.apply(num_sources, start, bias, matrices, *groups[num_split:])
    return total


def _merge(phases: Tensor, size: Size, start: Tensor | None) -> Tensor:
    """(targets, pixels, channels) from the layout of `split_phases` to that of whole images, and added."""
    targets, _, channels = phases.shape
    n, h, w = size
    images = phases.view(targets, 2, 2, n // 4, h, w, channels).permute(0, 3, 4, 1, 5, 2, 6)
    if start is None:
        return images.reshape(phases.shape)
    return (start.view(images.shape) + images).view(phases.shape)
