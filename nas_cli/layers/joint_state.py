"""States that are ready at the same time, pushed to the same targets together: the fast form's main path.

Where the same candidates run on all edges, every candidate computes all its edges in one go. Edges are
ordered by target, those of one target by source: as blocks, see `blocks.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.layers.blocks import BlockAffineRelu, BlockMix, lie_side_by_side, stack
from nas_cli.layers.depthwise import depthwise_conv2d, depthwise_convs
from nas_cli.layers.folded_norm import fold_blocks
from nas_cli.layers.forms import Forms, splits
from nas_cli.layers.operations import Pool, SeparableConv, SeparableStack
from nas_cli.layers.pointwise import pixels
from nas_cli.layers.share import Share
from nas_cli.layers.shared_state import SharedState, is_linear, linear_values, push_edges
from nas_cli.layers.statistics import Statistics
from nas_cli.supernet import Gate

# So many channels a processor's vector instructions take at once, and no more: edges stay apart
STACKED = range(16, 32)


@dataclass(frozen=True, slots=True)
class Edges:
    """`sources` of all edges of one target, by number; the same for each of `num_targets` targets."""

    sources: tuple[int, ...]
    num_targets: int

    @property
    def count(self) -> int:
        return len(self.sources) * self.num_targets


def push(
    modules: Sequence[SharedState],
    states: Sequence[Tensor],
    gates: Sequence[Gate],
    num_targets: int,
    statistics: Statistics,
) -> list[list[Share]]:
    """What the edges of each state bring to their targets; a state's edges are ordered by target."""
    joint = _joint_candidates(modules, gates)
    with torch.autocast(states[0].device.type, enabled=False):
        forms = [Forms.of(state, statistics) for state in states]
        shares = [[Share() for _ in gate.active] for gate in gates]
        if joint:
            values = _push_jointly(modules, forms, gates, joint, num_targets)
            for share, value in zip(shares[0][:: len(shares[0]) // num_targets], values, strict=True):
                share.values.append(value)
        for module, form, gate, arriving in zip(modules, forms, gates, shares, strict=True):
            others = [k for k in range(len(module.candidates)) if k not in joint]
            push_edges(form, module.groups(gate, arriving, others), len(arriving))
        return shares


def _joint_candidates(modules: Sequence[SharedState], gates: Sequence[Gate]) -> list[int]:
    """Those that compute all edges in one go: where the same run on all."""
    running = gates[0].active[0]
    if any(active != running for gate in gates for active in gate.active):
        return []
    return [k for k in running if _is_joint(modules[0].operation(0, k))]


def _is_joint(operation: nn.Module) -> bool:
    """In evaluation mode each edge's pooling has statistics of its own."""
    if isinstance(operation, Pool):
        return operation.norm is None or operation.norm.training
    return isinstance(operation, SeparableStack | nn.Identity)


def _push_jointly(
    modules: Sequence[SharedState],
    forms: Sequence[Forms],
    gates: Sequence[Gate],
    candidates: Sequence[int],
    num_targets: int,
) -> list[Tensor]:
    """For each target the images that its edges bring there."""
    slots = len(modules[0].rows) // num_targets
    edges = Edges(tuple(source for source in range(len(modules)) for _ in range(slots)), num_targets)
    weights = torch.stack([gate.weights.unflatten(0, (num_targets, slots)) for gate in gates], 1)
    columns = weights.unbind(3)
    linear = [k for k in candidates if is_linear(modules[0].operation(0, k))]
    total = None
    if linear:
        mixing = torch.stack([columns[k].sum(2) for k in linear], 2).flatten(1)
        total = _mix(mixing, _linear_images(modules, forms, linear))
    stacks = [(_on_all_edges(modules, k, edges), columns[k].flatten()) for k in candidates if k not in linear]
    if stacks:
        total = push_stacks(JointForms(forms, edges), stacks, total)
    assert total is not None
    n, _, h, w = forms[0].state.shape
    stride = modules[0].stride
    size = (n, -(-h // stride), -(-w // stride))
    return [target.unflatten(0, size).permute(0, 3, 1, 2) for target in total.unbind()]


def _mix(gates: Tensor, images: Sequence[Tensor]) -> Tensor:
    """(targets, pixels, channels): each target's weighted sum; gates (targets, images)."""
    flat = stack([pixels(batch).flatten() for batch in images])
    return (gates @ flat).unflatten(1, (-1, images[0].shape[1]))


def _linear_images(
    modules: Sequence[SharedState], forms: Sequence[Forms], candidates: Sequence[int]
) -> list[Tensor]:
    """Of each source, what each candidate makes of it: the same on all its edges."""
    return [
        linear_values(form, [module.operation(row, k) for row in range(len(module.rows))])[0]
        for module, form in zip(modules, forms, strict=True)
        for k in candidates
    ]


def _on_all_edges(modules: Sequence[SharedState], candidate: int, edges: Edges) -> list[SeparableStack]:
    """By target, then source."""
    slots = len(modules[0].rows) // edges.num_targets
    operations = [
        module.operation(target * slots + slot, candidate)
        for target in range(edges.num_targets)
        for module in modules
        for slot in range(slots)
    ]
    return [operation for operation in operations if isinstance(operation, SeparableStack)]


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
    ) -> "EdgeImages":
        """Each edge's depthwise convolution (c, 1, kernel, kernel) of its source's form."""
        settings = {"stride": stride, "padding": padding, "dilation": dilation}
        if stride == 1 and _lies_side_by_side(self.forms[0].state):
            images = depthwise_conv2d(self._join(form), stack(weights).flatten(0, 1), **settings)
            return EdgeImages.side_by_side(images, self.edges.count)
        places = len(self.edges.sources)
        by_place = [
            depthwise_convs(getattr(self.forms[source], form), weights[place::places], **settings)
            for place, source in enumerate(self.edges.sources)
        ]
        return EdgeImages.stacked(
            [images for at_target in zip(*by_place, strict=True) for images in at_target]
        )

    def _join(self, form: str) -> Tensor:
        """The sources of all edges, side by side."""
        if form not in self.joined:
            images = [getattr(forms, form) for forms in self.forms]
            n, channels, h, w = images[0].shape
            slots = len(self.edges.sources) // len(images)
            sources = pixels(torch.cat(images, 1) if len(images) > 1 else images[0])
            copied = sources.view(-1, 1, len(images), 1, channels).expand(
                -1, self.edges.num_targets, -1, slots, -1
            )
            self.joined[form] = copied.reshape(n, h, w, -1).permute(0, 3, 1, 2)
        return self.joined[form]


def _lies_side_by_side(state: Tensor) -> bool:
    return state.device.type != "cpu" or state.shape[1] not in STACKED


@dataclass(frozen=True, slots=True)
class EdgeImages:
    """Blocks (edges, pixels, channels), and how their pixels are images (n, h, w)."""

    blocks: Tensor
    size: tuple[int, int, int]

    @staticmethod
    def side_by_side(images: Tensor, count: int) -> "EdgeImages":
        n, _, h, w = images.shape
        return EdgeImages(pixels(images).unflatten(1, (count, -1)).transpose(0, 1), (n, h, w))

    @staticmethod
    def stacked(images: Sequence[Tensor]) -> "EdgeImages":
        n, _, h, w = images[0].shape
        return EdgeImages(stack([pixels(part) for part in images]), (n, h, w))

    def convolve(self, stages: Sequence[SeparableConv]) -> "EdgeImages":
        """Each edge's next depthwise convolution."""
        weights = [stage.depthwise.weight for stage in stages]
        first, count, channels = stages[0], self.blocks.shape[0], self.blocks.shape[2]
        settings = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
        if lie_side_by_side(self.blocks):
            flat = self.blocks.transpose(0, 1).reshape(*self.size, count * channels)
            images = flat.permute(0, 3, 1, 2)
            joined = stack(weights).flatten(0, 1)
            return EdgeImages.side_by_side(depthwise_conv2d(images, joined, **settings), count)
        parts = [part.view(*self.size, channels).permute(0, 3, 1, 2) for part in self.blocks.unbind()]
        return EdgeImages.stacked(
            [depthwise_conv2d(part, weight, **settings) for part, weight in zip(parts, weights, strict=True)]
        )


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
    groups, matrices, biases = _fold(stacks, None, statistics)
    advanced = []
    for pending, blocks, matrix, bias in zip(stacks, groups, matrices, biases, strict=True):
        rectified = EdgeImages(BlockAffineRelu.apply(matrix, bias, blocks), pending.images.size)
        stages = [edge[1:] for edge in pending.stages]
        images = rectified.convolve([edge[0] for edge in stages])
        advanced.append(_Pending(images, False, stages, pending.gates))
    return advanced


def _fold(
    stacks: Sequence[_Pending], gates: Tensor | None, statistics: Statistics
) -> tuple[list[Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
    layers = [edge[0] for pending in stacks for edge in pending.stages]
    points = stack([layer.pointwise.weight for layer in layers]).flatten(2)
    norms: list[nn.BatchNorm2d] = [layer.norm for layer in layers]
    folded = fold_blocks([pending.images.blocks for pending in stacks], points, norms, gates, statistics)
    edges = len(layers) // len(stacks)
    return folded.batches, folded.matrices.split(edges), folded.biases.split(edges)


def _finish(stacks: Sequence[_Pending], forms: JointForms, start: Tensor | None) -> Tensor:
    groups, matrices, biases = _fold(
        stacks, torch.cat([pending.gates for pending in stacks]), forms.statistics
    )
    num_sources = len(forms.edges.sources)
    bias = torch.stack(biases).sum(0).unflatten(0, (-1, num_sources)).sum(1)
    split = [g for g, pending in enumerate(stacks) if pending.split]
    whole = [g for g, pending in enumerate(stacks) if not pending.split]
    if split:
        phases = BlockMix.apply(
            num_sources,
            None,
            None if whole else bias,
            *(groups[g] for g in split),
            *(matrices[g] for g in split),
        )
        merged = _merge(phases, stacks[split[0]].images.size)
        start = merged if start is None else start + merged
    if whole:
        start = BlockMix.apply(
            num_sources, start, bias, *(groups[g] for g in whole), *(matrices[g] for g in whole)
        )
    assert start is not None
    return start


def _merge(phases: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(targets, pixels, channels) from the layout of `split_phases` to that of whole images."""
    targets, _, channels = phases.shape
    n, h, w = size
    images = phases.view(targets, 2, 2, n // 4, h, w, channels)
    return images.permute(0, 3, 4, 1, 5, 2, 6).reshape(phases.shape)
