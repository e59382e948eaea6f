"""Arithmetic on the images of several edges at once, each edge a block of one tensor.

Blocks are (edges, pixels, channels). In memory the edges stand one after the other (stacked), or their
channels lie side by side in every pixel: what a depthwise convolution wants that computes all edges in one
call. A product of blocks with as many small matrices is one call in both.

All functions are twice differentiable: their backward passes are made of differentiable operations. Where no
graph of the backward pass is wanted, gradients that arrive are overwritten. That is safe since what arrives
was made for this one use, by a function of this file or a depthwise convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.pointwise import Context, rectified_gradient


class BlockContext(Context):
    num_groups: int
    num_sources: int


class BlockAffineRelu(torch.autograd.Function):
    """relu(blocks @ matrices + biases), in the layout of the blocks; matrices (e, c, c), biases (e, c)."""

    @staticmethod
    def forward(ctx: FunctionCtx, matrices: Tensor, biases: Tensor, blocks: Tensor) -> Tensor:
        result = _product(blocks, matrices, like=blocks).add_(biases.unsqueeze(1)).relu_()
        ctx.save_for_backward(matrices, blocks, result)
        return result

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrices, blocks, result = ctx.saved_tensors
        through = rectified_gradient(gradient, result)
        for_blocks = None
        if ctx.needs_input_grad[2]:
            for_blocks = _product(through, matrices.transpose(1, 2), like=blocks)
        return torch.bmm(blocks.transpose(1, 2), through), sum_of_pixels(through), for_blocks


class BlockMix(torch.autograd.Function):
    """What g groups of edges bring to t targets: (t, pixels, channels).

    Arguments: how many edges lead to one target, neighbours among the blocks; what the targets have already
    (or None); a bias (t, c) or None; the blocks of each group, then the matrices (e, c, c) of each.
    """

    @staticmethod
    def forward(
        ctx: BlockContext, num_sources: int, start: Tensor | None, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.num_groups, ctx.num_sources = len(tensors) // 2, num_sources
        ctx.save_for_backward(*tensors)
        total: Tensor | None = None
        for blocks, matrices in _pairs(tensors, num_sources):
            if total is not None:
                total.baddbmm_(blocks, matrices)
            elif start is not None:
                total = torch.baddbmm(start, blocks, matrices)
            else:
                total = torch.bmm(blocks, matrices)
        assert total is not None
        return total if bias is None else total.add_(bias.unsqueeze(1))

    @staticmethod
    def backward(ctx: BlockContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        groups, all_matrices = ctx.saved_tensors[: ctx.num_groups], ctx.saved_tensors[ctx.num_groups :]
        needed = ctx.needs_input_grad[3 : 3 + ctx.num_groups]
        for_groups = [
            _gradient_of_blocks(gradient, blocks, matrices, ctx.num_sources) if wanted else None
            for blocks, matrices, wanted in zip(groups, all_matrices, needed, strict=True)
        ]
        for_matrices = [
            _gradient_of_matrices(gradient, blocks, ctx.num_sources)
            if ctx.needs_input_grad[3 + ctx.num_groups + g]
            else None
            for g, blocks in enumerate(groups)
        ]
        for_bias = gradient.sum(1) if ctx.needs_input_grad[2] else None
        return None, gradient if ctx.needs_input_grad[1] else None, for_bias, *for_groups, *for_matrices


def _pairs(tensors: Sequence[Tensor], num_sources: int) -> list[tuple[Tensor, Tensor]]:
    half = len(tensors) // 2
    return [
        pair
        for blocks, matrices in zip(tensors[:half], tensors[half:], strict=True)
        for pair in zip(
            _by_target(blocks, num_sources), _matrices_by_target(blocks, matrices, num_sources), strict=True
        )
    ]


def lie_side_by_side(blocks: Tensor) -> bool:
    return blocks.stride(0) < blocks.stride(1)


def _by_target(blocks: Tensor, num_sources: int) -> list[Tensor]:
    """One block a target where edges lie side by side, else one for each edge that leads there."""
    if num_sources == 1:
        return [blocks]
    if lie_side_by_side(blocks):
        return [blocks.unflatten(0, (-1, num_sources)).transpose(1, 2).flatten(2)]
    return [blocks[source::num_sources] for source in range(num_sources)]


def _matrices_by_target(blocks: Tensor, matrices: Tensor, num_sources: int) -> list[Tensor]:
    if num_sources == 1:
        return [matrices]
    if lie_side_by_side(blocks):
        return [matrices.reshape(-1, num_sources * matrices.shape[1], matrices.shape[2])]
    return [matrices[source::num_sources] for source in range(num_sources)]


def _gradient_of_blocks(gradient: Tensor, blocks: Tensor, matrices: Tensor, num_sources: int) -> Tensor:
    if torch.is_grad_enabled():
        return torch.bmm(gradient.repeat_interleave(num_sources, 0), matrices.transpose(1, 2))
    result = torch.empty_like(blocks)
    parts = zip(
        _by_target(result, num_sources), _matrices_by_target(blocks, matrices, num_sources), strict=True
    )
    for part, matrix in parts:
        torch.bmm(gradient, matrix.transpose(1, 2), out=part)
    return result


def _gradient_of_matrices(gradient: Tensor, blocks: Tensor, num_sources: int) -> Tensor:
    parts = [torch.bmm(part.transpose(1, 2), gradient) for part in _by_target(blocks, num_sources)]
    if len(parts) > 1:
        return torch.stack(parts, 1).flatten(0, 1)
    return parts[0].view(blocks.shape[0], blocks.shape[2], gradient.shape[2])


def _product(blocks: Tensor, matrices: Tensor, like: Tensor) -> Tensor:
    """In the layout of `like`, but where a graph is wanted."""
    if torch.is_grad_enabled():
        return torch.bmm(blocks, matrices)
    return torch.bmm(blocks, matrices, out=torch.empty_like(like))


def sum_of_pixels(blocks: Tensor) -> Tensor:
    """(e, c); by a product where the edges lie side by side, which reads them faster than a sum."""
    if not lie_side_by_side(blocks):
        return blocks.sum(1)
    return (blocks.new_ones(1, blocks.shape[1]) @ blocks.transpose(0, 1).flatten(1)).view(len(blocks), -1)


class Stack(torch.autograd.Function):
    """torch.stack, whose gradient is one operation and not one for each part."""

    @staticmethod
    def forward(ctx: FunctionCtx, *parts: Tensor) -> Tensor:
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient.unbind()


def stack(parts: Sequence[Tensor]) -> Tensor:
    stacked: Tensor = Stack.apply(*parts)
    return stacked
