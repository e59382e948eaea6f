"""Depthwise convolutions of several edges, each by itself, whose results are stacked as blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_cli.layers.depthwise import input_gradient, is_slow, wide_weight_gradients
from nas_cli.layers.pointwise import Context

Part = TypeVar("Part")
Size = tuple[int, int, int]
"""Images, height, width."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`sources`: for each edge, which of the images it convolves."""

    sources: tuple[int, ...]
    stride: int
    padding: int
    dilation: int


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
        for_weights: list[Tensor | None] = []
        for edge, source in enumerate(ctx.reading.sources):
            for_source, for_weight = _gradients(
                images[source],
                weights[edge],
                gradients[edge],
                ctx.reading,
                (need_images[source], need_weights[edge]),
            )
            for_weights.append(for_weight)
            for_images[source] = _add(for_images[source], for_source)
        return None, *for_images, *for_weights


class ConvolveBlocks(torch.autograd.Function):
    """Arguments: the reading, the size of the images, blocks, then the weights: edge e convolves block e."""

    @staticmethod
    def forward(ctx: _ReadContext, reading: Reading, size: Size, blocks: Tensor, *weights: Tensor) -> Tensor:
        ctx.reading, ctx.size = reading, size
        ctx.save_for_backward(blocks, *weights)
        return blocks_of(_convolve(images_of_blocks(blocks, size).unbind(), weights, reading))

    @staticmethod
    def backward(ctx: _ReadContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocks, *weights = ctx.saved_tensors
        wanted = [(ctx.needs_input_grad[2], need) for need in ctx.needs_input_grad[3:]]
        parts = zip(
            images_of_blocks(blocks, ctx.size).unbind(),
            weights,
            images_of_blocks(gradient, ctx.size).unbind(),
            [ctx.reading] * len(weights),
            wanted,
            strict=True,
        )
        for_images, for_weights = zip(*(_gradients(*part) for part in parts), strict=True)
        for_blocks = blocks_of(for_images) if ctx.needs_input_grad[2] else None
        return None, None, for_blocks, *for_weights


def _parts(tensors: Sequence[Part], reading: Reading) -> tuple[Sequence[Part], Sequence[Part]]:
    num_images = len(tensors) - len(reading.sources)
    return tensors[:num_images], tensors[num_images:]


def _size_of(images: Tensor) -> Size:
    n, _, h, w = images.shape
    return n, h, w


def _convolve(images: Sequence[Tensor], weights: Sequence[Tensor], reading: Reading) -> list[Tensor]:
    return [
        F.conv2d(
            images[source],
            weight,
            None,
            reading.stride,
            reading.padding,
            reading.dilation,
            groups=weight.shape[0],
        )
        for source, weight in zip(reading.sources, weights, strict=True)
    ]


def _gradients(
    images: Tensor, weight: Tensor, gradient: Tensor, reading: Reading, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    kernel = weight.shape[2]
    plain = reading.stride == 1 and reading.dilation == 1 and reading.padding == kernel // 2
    if plain and is_slow(images, kernel):
        return (
            input_gradient(gradient, images, weight) if wanted[0] else None,
            wide_weight_gradients(images, [gradient], weight)[0] if wanted[1] else None,
        )
    for_images, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient,
        images,
        weight,
        None,
        (reading.stride,) * 2,
        (reading.padding,) * 2,
        (reading.dilation,) * 2,
        False,
        (0, 0),
        weight.shape[0],
        (*wanted, False),
    )
    return for_images, for_weight


def _add(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part if torch.is_grad_enabled() else total.add_(part)
