"""The first two moments of pixels: what a 1x1 convolution's batch normalisation needs to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.blocks import inner_products_and_sums
from nas_cli.layers.pointwise import Context, add_times
from nas_cli.layers.products import add_product, inner_products_of_images, partial_sums, product


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


class MomentsOfImages:
    """Of image batches of one size, measured one after the other, without a graph."""

    def __init__(self) -> None:
        self._products: list[Tensor] = []
        self._sums: list[Tensor] = []

    def measure(self, images: Tensor) -> None:
        self._products.append(inner_products_of_images(images, images))
        self._sums.append(partial_sums(images))

    def join(self) -> tuple[Tensor, Tensor]:
        """Products (e, c, c) and sums (e, c)."""
        return torch.stack(self._products), torch.stack(self._sums).sum(1)


@dataclass(frozen=True, slots=True)
class MomentsGradient:
    """The gradient of pixels is pixels @ curvature + slope, of each block (e, c, c) and (e, c)."""

    curvature: Tensor
    slope: Tensor

    @staticmethod
    def of(for_products: Tensor, for_sums: Tensor) -> "MomentsGradient":
        return MomentsGradient(for_products + for_products.transpose(1, 2), for_sums)

    def of_images(self) -> "list[GradientOfImages]":
        """Of each block, which is images. The curvature is symmetric: transposed it lies as kernels do."""
        parts = zip(self.curvature.transpose(1, 2).unbind(), self.slope.unbind(), strict=True)
        return [GradientOfImages(*part) for part in parts]

    def of_blocks(self, edges: int) -> "list[GradientOfBlocks]":
        """By groups of so many blocks."""
        parts = zip(self.curvature.split(edges), self.slope.split(edges), strict=True)
        return [GradientOfBlocks(*part) for part in parts]


@dataclass(frozen=True, slots=True)
class GradientOfImages:
    """Curvature (c, c) and slope (c)."""

    curvature: Tensor
    slope: Tensor

    def add_to(self, gradient: Tensor | None, images: Tensor) -> Tensor:
        """In the layout of the images; the gradient may be overwritten where no graph is wanted."""
        return add_times(gradient, images, self.curvature, self.slope)


@dataclass(frozen=True, slots=True)
class GradientOfBlocks:
    """Curvature (e, c, c) and slope (e, c)."""

    curvature: Tensor
    slope: Tensor

    def add_to(self, gradient: Tensor | None, blocks: Tensor) -> Tensor:
        """In the layout of the blocks; the gradient may be overwritten where no graph is wanted."""
        if torch.is_grad_enabled():
            result = torch.bmm(blocks, self.curvature) + self.slope[:, None]
            return result if gradient is None else gradient + result
        if gradient is None:
            return product(blocks, self.curvature, self.slope)
        return add_product(gradient, blocks, self.curvature, self.slope)


class _Measure(torch.autograd.Function):
    """Handing the groups on lets one backward pass add the gradients of both uses of the pixels."""

    @staticmethod
    def forward(ctx: FunctionCtx, *groups: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*groups)
        ctx.set_materialize_grads(False)
        return (*groups, *_moments(groups))

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        groups = ctx.saved_tensors
        *handed_on, for_products, for_sums = gradients
        if for_products is None or for_sums is None:
            return tuple(handed_on)
        parts = _by_group(MomentsGradient.of(for_products, for_sums), groups)
        return tuple(
            part.add_to(gradient, group) if needed else None
            for part, gradient, group, needed in zip(
                parts, handed_on, groups, ctx.needs_input_grad, strict=True
            )
        )


def _by_group(
    gradient: MomentsGradient, groups: Sequence[Tensor]
) -> Sequence[GradientOfImages | GradientOfBlocks]:
    return gradient.of_images() if _are_images(groups) else gradient.of_blocks(len(groups[0]))


def _are_images(groups: Sequence[Tensor]) -> bool:
    return groups[0].dim() == 4


def _moments(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Products (e, c, c) and sums (e, c) of all groups."""
    if _are_images(groups):
        moments = MomentsOfImages()
        for images in groups:
            moments.measure(images)
        return moments.join()
    products, sums = zip(*(inner_products_and_sums(blocks, blocks) for blocks in groups), strict=True)
    return torch.cat(products), torch.cat(sums)
