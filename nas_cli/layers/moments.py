"""The first two moments of pixels: what a 1x1 convolution's batch normalisation needs to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.blocks import inner_products_and_sums
from nas_cli.layers.pointwise import Context, images_of, pixels, times
from nas_cli.layers.products import add_product, convolves, product


@dataclass(frozen=True, slots=True)
class Moments:
    """Of e blocks of `count` pixels: sums of products of two channels (e, c, c) and of channels (e, c)."""

    products: Tensor
    sums: Tensor
    count: int

    @staticmethod
    def join(parts: Sequence["Moments"]) -> "Moments":
        if len(parts) == 1:
            return parts[0]
        products = torch.cat([part.products for part in parts])
        return Moments(products, torch.cat([part.sums for part in parts]), parts[0].count)


def measure(groups: Sequence[Tensor]) -> tuple[list[Tensor], Moments]:
    """The groups, to be used in their own place, and their moments.

    A group is blocks (e, pixels, c), or images (n, c, h, w), which are one block.
    """
    *handed_on, products, sums = _Measure.apply(*groups)
    return handed_on, Moments(products, sums, count_pixels(groups[0]))


def count_pixels(group: Tensor) -> int:
    return group.numel() // group.shape[1] if group.dim() == 4 else group.shape[1]


def moments_of(group: Tensor) -> tuple[Tensor, Tensor]:
    """Products (e, c, c) and sums (e, c)."""
    blocks = _blocks(group)
    return inner_products_and_sums(blocks, blocks)


@dataclass(frozen=True, slots=True)
class MomentsGradient:
    """The gradient of pixels is pixels @ curvature + slope, of each block (e, c, c) and (e, c)."""

    curvature: Tensor
    slope: Tensor

    @staticmethod
    def of(for_products: Tensor, for_sums: Tensor) -> "MomentsGradient":
        return MomentsGradient(for_products + for_products.transpose(1, 2), for_sums)

    def split(self, edges: int) -> list["MomentsGradient"]:
        """By groups of so many blocks."""
        parts = zip(self.curvature.split(edges), self.slope.split(edges), strict=True)
        return [MomentsGradient(*part) for part in parts]

    def add_to(self, gradient: Tensor | None, group: Tensor) -> Tensor:
        """In the layout of the group; the gradient may be overwritten where no graph is wanted."""
        if group.dim() == 4 and convolves(group, group.shape[1]):
            result = times(group, self.curvature[0], self.slope[0])
            return result if gradient is None else result.add_(gradient)
        blocks = _blocks(group)
        if torch.is_grad_enabled():
            result = torch.bmm(blocks, self.curvature) + self.slope[:, None]
            result = result if gradient is None else _blocks(gradient) + result
        elif gradient is None:
            result = product(blocks, self.curvature, self.slope)
        else:
            result = add_product(_blocks(gradient), blocks, self.curvature, self.slope)
        return result if group.dim() == 3 else images_of(result.squeeze(0), group)


class _Measure(torch.autograd.Function):
    """Handing the groups on lets one backward pass add the gradients of both uses of the pixels."""

    @staticmethod
    def forward(ctx: FunctionCtx, *groups: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*groups)
        ctx.set_materialize_grads(False)
        products, sums = zip(*map(moments_of, groups), strict=True)
        return (*groups, torch.cat(products), torch.cat(sums))

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        groups = ctx.saved_tensors
        *handed_on, for_products, for_sums = gradients
        if for_products is None or for_sums is None:
            return tuple(handed_on)
        of_moments = MomentsGradient.of(for_products, for_sums).split(len(_blocks(groups[0])))
        return tuple(
            part.add_to(gradient, group) if needed else None
            for part, gradient, group, needed in zip(
                of_moments, handed_on, groups, ctx.needs_input_grad, strict=True
            )
        )


def _blocks(group: Tensor) -> Tensor:
    return group if group.dim() == 3 else pixels(group).unsqueeze(0)
