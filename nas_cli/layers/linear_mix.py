"""Weighted sums of images, one for each target: what poolings and identities bring there.

All functions are twice differentiable: their backward passes are made of differentiable operations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.pointwise import Context
from nas_cli.layers.products import inner_products

Size = tuple[int, int, int]
"""Images, height, width."""


def mix_linearly(gates: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Gates (targets, k) and k image batches (n, c, h, w) to (targets, pixels, c)."""
    mixed: Tensor = _Mix.apply(gates, _Rows.apply(*images))
    return mixed.view(len(mixed), -1, images[0].shape[1])


def images_of_targets(blocks: Tensor, size: Size) -> tuple[Tensor, ...]:
    """(targets, pixels, c) as an image batch for each."""
    images: tuple[Tensor, ...] = _Images.apply(blocks, size)
    return images


class _SizeContext(FunctionCtx):
    size: Size


class _Rows(torch.autograd.Function):
    """k image batches to (k, n h w c)."""

    @staticmethod
    def forward(ctx: _SizeContext, *images: Tensor) -> Tensor:
        n, _, h, w = images[0].shape
        ctx.size = (n, h, w)
        return torch.stack([batch.permute(0, 2, 3, 1) for batch in images]).flatten(1)

    @staticmethod
    def backward(ctx: _SizeContext, gradient: Tensor) -> tuple[Tensor, ...]:
        return _images(gradient, ctx.size)


class _Mix(torch.autograd.Function):
    """gates @ rows; with torch's own gradient of the gates one thread of a processor works alone."""

    @staticmethod
    def forward(ctx: FunctionCtx, gates: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(gates, rows)
        return gates @ rows

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gates, rows = ctx.saved_tensors
        return (
            _inner_product(gradient, rows) if ctx.needs_input_grad[0] else None,
            gates.t() @ gradient if ctx.needs_input_grad[1] else None,
        )


class _Images(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _SizeContext, blocks: Tensor, size: Size) -> tuple[Tensor, ...]:
        ctx.size = size
        return _images(blocks, size)

    @staticmethod
    def backward(ctx: _SizeContext, *gradients: Tensor) -> tuple[Tensor, None]:
        stacked = torch.stack([gradient.permute(0, 2, 3, 1) for gradient in gradients])
        return stacked.flatten(1, 3), None


def _images(rows: Tensor, size: Size) -> tuple[Tensor, ...]:
    return tuple(row.view(*size, -1).permute(0, 3, 1, 2) for row in rows.unbind())


def _inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Of each row (t, ...) with each row (k, ...): (t, k)."""
    if torch.is_grad_enabled():
        return left @ right.t()
    return inner_products(left.t().unsqueeze(0), right.t().unsqueeze(0)).squeeze(0)
