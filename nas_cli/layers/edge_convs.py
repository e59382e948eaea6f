"""Depthwise convolutions of several edges, each by itself, whose results are stacked as blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nas_cli.layers.depthwise_functions import (
    Columns,
    Geometry,
    Source,
    convolve,
    gradients_of,
    join_columns,
)
from nas_cli.layers.pointwise import Context

Part = TypeVar("Part")
Size = tuple[int, int, int]
"""Images, height, width."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`sources`: for each edge, which of the images it convolves."""

    sources: tuple[int, ...]
    geometry: Geometry


def images_of_blocks(blocks: Tensor, size: Size) -> Tensor:
    """(e, pixels, c) as (e, n, c, h, w)."""
    images: Tensor = blocks.unflatten(1, size)
    return images.permute(0, 1, 4, 2, 3)


def blocks_of(images: Sequence[Tensor]) -> Tensor:
    """(e, pixels, c) of e image batches, stacked."""
    return torch.stack([batch.permute(0, 2, 3, 1) for batch in images]).flatten(1, 3)


class _ReadContext(Context):
    reading: Reading
    size: Size


class ConvolveApart(torch.autograd.Function):
    """Arguments: the reading, image batches, then the weights (c, 1, kernel, kernel) of the edges."""

    @staticmethod
    def forward(ctx: _ReadContext, reading: Reading, *tensors: Tensor) -> Tensor:
        images, weights = _parts(tensors, reading)
        results = _convolve(images, weights, reading)
        ctx.reading, ctx.size = reading, _size_of(results[0])
        ctx.save_for_backward(*tensors)
        return blocks_of(results)

    @staticmethod
    def backward(ctx: _ReadContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weights = _parts(ctx.saved_tensors, ctx.reading)
        need_images, need_weights = _parts(ctx.needs_input_grad[1:], ctx.reading)
        gradients = images_of_blocks(gradient, ctx.size).unbind()
        for_images: list[Tensor | None] = [None] * len(images)
        for_weights: list[Tensor | Columns | None] = []
        sources = [Source(batch) for batch in images]
        for edge, source in enumerate(ctx.reading.sources):
            wanted = need_images[source], need_weights[edge]
            for_images[source], for_weight = gradients_of(
                ctx.reading.geometry,
                sources[source],
                weights[edge],
                gradients[edge],
                wanted,
                total=for_images[source],
            )
            for_weights.append(for_weight)
        return None, *for_images, *join_columns(for_weights)


class _BlockContext(Context):
    geometry: Geometry
    size: Size


class ConvolveBlocks(torch.autograd.Function):
    """Arguments: the geometry, the size of the images, blocks, then the weights: edge e convolves block e."""

    @staticmethod
    def forward(
        ctx: _BlockContext, geometry: Geometry, size: Size, blocks: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.geometry, ctx.size = geometry, size
        ctx.save_for_backward(blocks, *weights)
        pairs = zip(images_of_blocks(blocks, size).unbind(), weights, strict=True)
        return blocks_of([convolve(geometry, images, weight) for images, weight in pairs])

    @staticmethod
    def backward(ctx: _BlockContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocks, *weights = ctx.saved_tensors
        edges = zip(
            images_of_blocks(blocks, ctx.size).unbind(),
            weights,
            images_of_blocks(gradient, ctx.size).unbind(),
            ctx.needs_input_grad[3:],
            strict=True,
        )
        for_images, for_weights = [], []
        for images, weight, for_result, need in edges:
            for_edge, for_weight = gradients_of(
                ctx.geometry, Source(images), weight, for_result, (ctx.needs_input_grad[2], need)
            )
            for_images += [] if for_edge is None else [for_edge]
            for_weights.append(for_weight)
        return None, None, blocks_of(for_images) if for_images else None, *join_columns(for_weights)


def _parts(tensors: Sequence[Part], reading: Reading) -> tuple[Sequence[Part], Sequence[Part]]:
    num_images = len(tensors) - len(reading.sources)
    return tensors[:num_images], tensors[num_images:]


def _size_of(images: Tensor) -> Size:
    n, _, h, w = images.shape
    return n, h, w


def _convolve(images: Sequence[Tensor], weights: Sequence[Tensor], reading: Reading) -> list[Tensor]:
    return [
        convolve(reading.geometry, images[source], weight)
        for source, weight in zip(reading.sources, weights, strict=True)
    ]
