"""Depthwise convolutions of several edges and the moments of what they give, edge after edge.

What is done to an edge's images is done while a processor's cache has them: the convolution, then its
moments; backwards the gradient of the moments, then that of the convolution. Done for all edges in turn, each
would be read from memory again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.layers.depthwise_functions import (
    Columns,
    Geometry,
    Source,
    add_gradients,
    convolve,
    gradients_of,
    join_columns,
)
from nas_cli.layers.moments import (
    GradientOfImages,
    Moments,
    MomentsGradient,
    MomentsOfImages,
    count_pixels,
    measure,
)
from nas_cli.layers.pointwise import Context, affine_relu, affine_relu_gradients

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an edge convolves: images (n, c, h, w) with a weight (c, 1, kernel, kernel)."""

    images: Tensor
    weight: Tensor
    geometry: Geometry

    @property
    def is_plain(self) -> bool:
        """Whether it is computed as it stands: not in phases, as dilated ones are on a processor."""
        return self.geometry.dilation == 1 or self.images.device.type != "cpu"


@dataclass(frozen=True, slots=True)
class Measured:
    """An image batch for each edge, and their moments, one block an edge, where they were asked for."""

    batches: list[Tensor]
    moments: Moments | None


def convolve_and_measure(readings: Sequence[Reading], *, measured: bool) -> Measured:
    """What all edges convolve; they may read the same images."""
    if not all(reading.is_plain for reading in readings):
        batches = [_convolve_alone(reading) for reading in readings]
        return Measured(*measure(batches)) if measured else Measured(batches, None)
    sources = list({id(reading.images): reading.images for reading in readings}.values())
    places = {id(images): place for place, images in enumerate(sources)}
    plan = _Plan(
        tuple(reading.geometry for reading in readings),
        tuple(places[id(reading.images)] for reading in readings),
        measured,
    )
    weights = [reading.weight for reading in readings]
    return _measured(_Convolve.apply(plan, *sources, *weights), measured)


def rectify_convolve_and_measure(
    batches: Sequence[Tensor],
    matrices: Tensor,
    biases: Tensor,
    weights: Sequence[Tensor],
    geometries: Sequence[Geometry],
    *,
    measured: bool,
) -> Measured:
    """The same of relu(batch @ matrix + bias) of each edge; matrices (r, c, o), biases (r, o)."""
    plan = _Plan(tuple(geometries), tuple(range(len(batches))), measured)
    found = _RectifyAndConvolve.apply(plan, matrices, biases, *batches, *weights)
    return _measured(found[len(batches) :], measured)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Of each edge, how it convolves which images."""

    geometries: tuple[Geometry, ...]
    sources: tuple[int, ...]
    measured: bool


class _PlanContext(Context):
    plan: _Plan


class _Convolve(torch.autograd.Function):
    """Arguments: the plan, image batches, the edges' weights. Results: image batches, products, sums."""

    @staticmethod
    def forward(ctx: _PlanContext, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        images, weights = _split_off(tensors, len(plan.sources))
        batches, moments = [], MomentsOfImages()
        for source, weight, geometry in zip(plan.sources, weights, plan.geometries, strict=True):
            batches.append(convolve(geometry, images[source], weight))
            if plan.measured:
                moments.measure(batches[-1])
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *batches)
        ctx.set_materialize_grads(False)
        return *batches, *(moments.join() if plan.measured else ())

    @staticmethod
    def backward(ctx: _PlanContext, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, edges = ctx.plan, len(ctx.plan.sources)
        tensors, batches = _split_off(ctx.saved_tensors, edges)
        images, weights = _split_off(tensors, edges)
        need_images, need_weights = _split_off(ctx.needs_input_grad[1:], edges)
        sources = [Source(batch) for batch in images]
        arriving = _arriving(gradients, batches)
        for_images: list[Tensor | None] = [None] * len(images)
        for_weights: list[Tensor | Columns | None] = [None] * edges
        for edge, source in enumerate(plan.sources):
            gradient = arriving.of(edge)
            if gradient is not None:
                for_images[source], for_weights[edge] = gradients_of(
                    plan.geometries[edge],
                    sources[source],
                    weights[edge],
                    gradient,
                    (need_images[source], need_weights[edge]),
                    total=for_images[source],
                )
        return None, *for_images, *join_columns(for_weights)


class _RectifyAndConvolve(torch.autograd.Function):
    """Arguments: the plan, matrices, biases, the edges' image batches, their weights.

    Results: what is convolved (for derivatives of the backward pass), image batches, products, sums.
    """

    @staticmethod
    def forward(
        ctx: _PlanContext, plan: _Plan, matrices: Tensor, biases: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        images, weights = _split_off(tensors, len(plan.sources))
        rectified, batches, moments = [], [], MomentsOfImages()
        edges = zip(images, matrices.unbind(), biases.unbind(), weights, plan.geometries, strict=True)
        for batch, matrix, bias, weight, geometry in edges:
            rectified.append(affine_relu(batch, matrix, bias))
            batches.append(convolve(geometry, rectified[-1], weight))
            if plan.measured:
                moments.measure(batches[-1])
        ctx.plan = plan
        ctx.save_for_backward(matrices, *tensors, *rectified, *batches)
        ctx.set_materialize_grads(False)
        return *rectified, *batches, *(moments.join() if plan.measured else ())

    @staticmethod
    def backward(ctx: _PlanContext, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        edges = len(ctx.plan.sources)
        matrices, *saved = ctx.saved_tensors
        images, weights, rectified, batches = (saved[k * edges : (k + 1) * edges] for k in range(4))
        transposed = matrices.transpose(1, 2).unbind()
        need_images, need_weights = _split_off(ctx.needs_input_grad[3:], edges)
        arriving = _arriving(gradients[edges:], batches)
        for_matrices, for_biases, for_images, for_weights = [], [], [], []
        for edge, result in enumerate(rectified):
            gradient, for_result, for_weight = arriving.of(edge), gradients[edge], None
            if gradient is not None:
                through, for_weight = gradients_of(
                    ctx.plan.geometries[edge],
                    Source(result),
                    weights[edge],
                    gradient,
                    (True, need_weights[edge]),
                )
                for_result = add_gradients(through, for_result)
            for_matrix, for_bias, for_batch = affine_relu_gradients(
                images[edge],
                torch.zeros_like(result) if for_result is None else for_result,
                result,
                transposed[edge],
                need_images[edge],
            )
            for_matrices.append(for_matrix)
            for_biases.append(for_bias)
            for_images.append(for_batch)
            for_weights.append(for_weight)
        return (
            None,
            torch.stack(for_matrices),
            torch.stack(for_biases).sum(1),
            *for_images,
            *join_columns(for_weights),
        )


@dataclass(frozen=True, slots=True)
class _Arriving:
    """The gradients of image batches, and that of their moments."""

    gradients: Sequence[Tensor | None]
    batches: Sequence[Tensor]
    of_moments: Sequence[GradientOfImages]

    def of(self, edge: int) -> Tensor | None:
        """All of an edge's, added up."""
        gradient = self.gradients[edge]
        return self.of_moments[edge].add_to(gradient, self.batches[edge]) if self.of_moments else gradient


def _arriving(gradients: Sequence[Tensor | None], batches: Sequence[Tensor]) -> _Arriving:
    handed_on, of_moments = gradients[: len(batches)], gradients[len(batches) :]
    for_products, for_sums = of_moments or (None, None)
    if for_products is None or for_sums is None:
        return _Arriving(handed_on, batches, [])
    return _Arriving(handed_on, batches, MomentsGradient.of(for_products, for_sums).of_images())


def _measured(found: Sequence[Tensor], measured: bool) -> Measured:
    if not measured:
        return Measured(list(found), None)
    *batches, products, sums = found
    return Measured(batches, Moments(products, sums, count_pixels(batches[0])))


def _convolve_alone(reading: Reading) -> Tensor:
    geometry = reading.geometry
    return depthwise_conv2d(
        reading.images,
        reading.weight,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
    )


def _split_off(parts: Sequence[Part], edges: int) -> tuple[Sequence[Part], Sequence[Part]]:
    """The last ones, of which there is one for each edge, from those before."""
    return parts[:-edges], parts[-edges:]
