"""Products of images with small matrices, the arithmetic of 1x1 convolutions, with fused gradients.

An image batch (n, c, h, w) in channels_last memory is a matrix of n*h*w pixels by c channels. All
functions here are twice differentiable: their backward passes are made of differentiable operations.

Where no graph of the backward pass is wanted, gradients that arrive are overwritten. That is safe in a
SharedState alone: what arrives was made for this one use, by Mix or a depthwise convolution.
"""

from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.products import (
    add_convolution,
    channel_sums,
    inner_products_of_images,
    linear,
    multiplies,
    partial_sums,
)

Part = TypeVar("Part")


class Context(FunctionCtx):
    """What torch gives a Function's backward pass; its own class declares none of it."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    num_images: int
    num_values: int


def pixels(images: Tensor) -> Tensor:
    """(n, c, h, w) as (n*h*w, c): a view where memory is channels_last."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def images_of(flat: Tensor, like: Tensor) -> Tensor:
    """(n*h*w, c) as images of the batch and the size of `like`, which may have other channels."""
    n, _, h, w = like.shape
    return flat.view(n, h, w, flat.shape[1]).permute(0, 3, 1, 2)


def times(images: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """images (n, c, h, w) @ matrix (c, o) + bias (o)."""
    flat = pixels(images)
    if multiplies(images, matrix.shape[1]):
        return images_of(linear(flat, matrix, bias), images)
    return images_of(flat.mm(matrix) if bias is None else torch.addmm(bias, flat, matrix), images)


def _kernels(matrix: Tensor) -> Tensor:
    """(c, o) as those of a 1x1 convolution (o, c, 1, 1).

    Those of a matrix that is a contiguous one's transpose lie as oneDNN wants them; others are copied there.
    """
    channels, out_channels = matrix.shape
    stride, out_stride = matrix.stride()
    return matrix.as_strided((out_channels, channels, 1, 1), (out_stride, stride, 1, 1))


def add_times(total: Tensor | None, images: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same, added to `total`, in place where no graph is wanted."""
    if total is None:
        return times(images, matrix, bias)
    if torch.is_grad_enabled():
        return total + times(images, matrix, bias)
    total = total.contiguous(memory_format=torch.channels_last)
    if multiplies(images, matrix.shape[1]):
        return add_convolution(total, images, _kernels(matrix), bias)
    summed = pixels(total).addmm_(pixels(images), matrix)
    if bias is not None:
        summed.add_(bias)
    return total


def _inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Of each channel of images (n, c, h, w) with each of others (n, o, h, w): (c, o)."""
    if torch.is_grad_enabled():
        return pixels(left).t().mm(pixels(right))
    return inner_products_of_images(left, right)


def affine_relu(images: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """relu(images @ matrix + bias), without a graph."""
    return times(images, matrix, bias).relu_()


def affine_relu_gradients(
    images: Tensor, gradient: Tensor, result: Tensor, transposed: Tensor, needed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the matrix, of the bias in parts (parts, o), of the images where it is needed.

    `transposed` is the matrix (o, c).
    """
    through = rectified_gradient(gradient, result)
    for_bias = pixels(through).sum(0, keepdim=True) if torch.is_grad_enabled() else partial_sums(through)
    return _inner_product(images, through), for_bias, times(through, transposed) if needed else None


def rectified_gradient(gradient: Tensor, result: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        through: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0)
        return through
    torch.ops.aten.threshold_backward.grad_input(gradient, result, 0, grad_input=gradient)
    return gradient


class Mix(torch.autograd.Function):
    """bias + sum of values + sum of images @ matrix: a node, from everything that arrives there.

    Arguments: how many values, how many products, the bias (o) or None, the values (n, o, h, w), the images
    (n, c, h, w), their matrices (c, o).
    """

    @staticmethod
    def forward(
        ctx: Context, num_values: int, num_images: int, bias: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        values, images, matrices = _parts(tensors, num_values, num_images)
        ctx.num_values, ctx.num_images = num_values, num_images
        ctx.save_for_backward(*images, *matrices)
        total = times(images[0], matrices[0], bias)
        for batch, matrix in zip(images[1:], matrices[1:], strict=True):
            add_times(total, batch, matrix)
        for value in values:
            total.add_(value)
        return total

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, images, matrices = _parts(ctx.saved_tensors, 0, ctx.num_images)
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # it may be a slice
        _, need_images, need_matrices = _parts(ctx.needs_input_grad[3:], ctx.num_values, ctx.num_images)
        for_images = [
            times(gradient, matrix.t()) if needed else None
            for matrix, needed in zip(matrices, need_images, strict=True)
        ]
        for_matrices = [
            _inner_product(batch, gradient) if needed else None
            for batch, needed in zip(images, need_matrices, strict=True)
        ]
        for_bias = channel_sums(pixels(gradient)) if ctx.needs_input_grad[2] else None
        return None, None, for_bias, *(gradient,) * ctx.num_values, *for_images, *for_matrices


def _parts(
    tensors: tuple[Part, ...], num_values: int, num_images: int
) -> tuple[tuple[Part, ...], tuple[Part, ...], tuple[Part, ...]]:
    end = num_values + num_images
    return tensors[:num_values], tensors[num_values:end], tensors[end:]
