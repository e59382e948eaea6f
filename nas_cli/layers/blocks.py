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

from nas_cli.layers import products
from nas_cli.layers.pointwise import Context, rectified_gradient
from nas_cli.layers.products import (
    add_product,
    channel_sums,
    convolves_blocks,
    lay_side_by_side,
    lie_side_by_side,
    product,
    stacked_product,
)


class BlockContext(Context):
    num_sources: int


class BlockAffineRelu(torch.autograd.Function):
    """relu(blocks @ matrices + biases) of g groups, in their layout; (g e, c, c) and (g e, c)."""

    @staticmethod
    def forward(ctx: FunctionCtx, matrices: Tensor, biases: Tensor, *groups: Tensor) -> tuple[Tensor, ...]:
        edges = len(groups[0])
        parts = zip(groups, matrices.split(edges), biases.split(edges), strict=True)
        results = [product(blocks, matrix, bias).relu_() for blocks, matrix, bias in parts]
        ctx.save_for_backward(matrices, *groups, *results)
        return tuple(results)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        matrices, *saved = ctx.saved_tensors
        groups, results = saved[: len(gradients)], saved[len(gradients) :]
        through = [
            rectified_gradient(gradient, result) for gradient, result in zip(gradients, results, strict=True)
        ]
        parts = zip(through, matrices.transpose(1, 2).split(len(groups[0])), strict=True)
        sums = [inner_products_and_sums(b, g) for b, g in zip(groups, through, strict=True)]
        for_matrices, for_biases = zip(*sums, strict=True)
        return (
            torch.cat(for_matrices),
            torch.cat(for_biases),
            *(_product(gradient, matrix) for gradient, matrix in parts),
        )


class BlockMix(torch.autograd.Function):
    """What g groups of edges bring to t targets: (t, pixels, channels).

    Arguments: how many edges lead to one target, neighbours among the blocks; what the targets have already
    (or None); a bias (t, c) or None; the matrices (g e, c, c), the blocks of each group.
    """

    @staticmethod
    def forward(
        ctx: BlockContext,
        num_sources: int,
        start: Tensor | None,
        bias: Tensor | None,
        matrices: Tensor,
        *groups: Tensor,
    ) -> Tensor:
        ctx.num_sources = num_sources
        ctx.save_for_backward(matrices, *groups)
        total = None if start is None else start.clone()
        for blocks, matrix in _pairs(groups, matrices, num_sources):
            total = stacked_product(blocks, matrix) if total is None else add_product(total, blocks, matrix)
        assert total is not None
        return total if bias is None else total.add_(bias.unsqueeze(1))

    @staticmethod
    def backward(ctx: BlockContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrices, *groups = ctx.saved_tensors
        beside = lay_side_by_side(gradient)
        laid = [beside if lie_side_by_side(blocks) else gradient for blocks in groups]
        parts = zip(laid, groups, matrices.split(len(groups[0])), ctx.needs_input_grad[4:], strict=True)
        for_groups = [
            _gradient_of_blocks(arriving, blocks, matrix, ctx.num_sources) if wanted else None
            for arriving, blocks, matrix, wanted in parts
        ]
        for_matrices = torch.cat(
            [_gradient_of_matrices(*pair, ctx.num_sources) for pair in zip(laid, groups, strict=True)]
        )
        for_bias = channel_sums(gradient) if ctx.needs_input_grad[2] else None
        return None, gradient if ctx.needs_input_grad[1] else None, for_bias, for_matrices, *for_groups


def _pairs(groups: Sequence[Tensor], matrices: Tensor, num_sources: int) -> list[tuple[Tensor, Tensor]]:
    """What is multiplied, for all targets at a time."""
    return [
        pair
        for blocks, part in zip(groups, matrices.split(len(groups[0])), strict=True)
        for pair in zip(
            _by_target(blocks, num_sources), _matrices_by_target(blocks, part, num_sources), strict=True
        )
    ]


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
    if lie_side_by_side(blocks) and convolves_blocks(gradient, blocks.shape[2]):
        (matrix,) = _matrices_by_target(blocks, matrices, num_sources)
        together: Tensor = product(gradient, matrix.transpose(1, 2)).unflatten(2, (num_sources, -1))
        return together.transpose(1, 2).flatten(0, 1)
    result = torch.empty_like(blocks)
    parts = zip(
        _by_target(result, num_sources), _matrices_by_target(blocks, matrices, num_sources), strict=True
    )
    for part, matrix in parts:
        torch.bmm(gradient, matrix.transpose(1, 2), out=part)
    return result


def _gradient_of_matrices(gradient: Tensor, blocks: Tensor, num_sources: int) -> Tensor:
    parts = [inner_products(part, gradient) for part in _by_target(blocks, num_sources)]
    if len(parts) > 1:
        return torch.stack(parts, 1).flatten(0, 1)
    return parts[0].reshape(blocks.shape[0], blocks.shape[2], gradient.shape[2])


def _product(blocks: Tensor, matrices: Tensor) -> Tensor:
    """In the layout of the blocks, but where a graph is wanted."""
    return torch.bmm(blocks, matrices) if torch.is_grad_enabled() else product(blocks, matrices)


class InnerProducts(torch.autograd.Function):
    """Of each channel of a block (e, pixels, c) with each of another's: (e, c, o).

    torch's own gradient of a transposed product would have its memory transposed too.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return products.inner_products(left, right)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        return (
            torch.bmm(right, gradient.transpose(1, 2)) if ctx.needs_input_grad[0] else None,
            torch.bmm(left, gradient) if ctx.needs_input_grad[1] else None,
        )


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    found: Tensor = InnerProducts.apply(left, right)
    return found


def inner_products_and_sums(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the sums (e, o) of right over its pixels."""
    if torch.is_grad_enabled():
        return inner_products(left, right), products.sums_of_pixels(right)
    return products.inner_products_and_sums(left, right)


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
