"""Weighted sums of images, one for each target: what poolings and identities bring there.

All functions are twice differentiable: their backward passes are made of differentiable operations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.edge_convs import Size, blocks_of, images_of_blocks
from nas_cli.layers.pointwise import Context
from nas_cli.layers.products import inner_products


def mix_linearly(gates: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Gates (targets, k) and k image batches (n, c, h, w) to (targets, pixels, c)."""
    mixed: Tensor = _Mix.apply(gates, _Blocks.apply(*images))
    return mixed


def images_of_targets(blocks: Tensor, size: Size) -> tuple[Tensor, ...]:
    """(targets, pixels, c) as an image batch for each."""
    images: tuple[Tensor, ...] = _Images.apply(blocks, size)
    return images


class _SizeContext(FunctionCtx):
    size: Size


class _Blocks(torch.autograd.Function):
    """k image batches to (k, pixels, c)."""

    @staticmethod
    def forward(ctx: _SizeContext, *images: Tensor) -> Tensor:
        n, _, h, w = images[0].shape
        ctx.size = (n, h, w)
        return blocks_of(images)

    @staticmethod
    def backward(ctx: _SizeContext, gradient: Tensor) -> tuple[Tensor, ...]:
        return images_of_blocks(gradient, ctx.size).unbind()


class _Mix(torch.autograd.Function):
    """gates @ blocks; with torch's own gradient of the gates one thread of a processor works alone."""

    @staticmethod
    def forward(ctx: FunctionCtx, gates: Tensor, blocks: Tensor) -> Tensor:
        ctx.save_for_backward(gates, blocks)
        return _product(gates, blocks)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gates, blocks = ctx.saved_tensors
        return (
            _inner_product(gradient.flatten(1), blocks.flatten(1)) if ctx.needs_input_grad[0] else None,
            _product(gates.t(), gradient) if ctx.needs_input_grad[1] else None,
        )


class _Images(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, blocks: Tensor, size: Size) -> tuple[Tensor, ...]:
        return images_of_blocks(blocks, size).unbind()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return blocks_of(gradients), None


def _product(gates: Tensor, blocks: Tensor) -> Tensor:
    mixed: Tensor = (gates @ blocks.flatten(1)).unflatten(1, blocks.shape[1:])
    return mixed


def _inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Of each row (t, ...) with each row (k, ...): (t, k)."""
    if torch.is_grad_enabled():
        return left @ right.t()
    return inner_products(left.t().unsqueeze(0), right.t().unsqueeze(0)).squeeze(0)
