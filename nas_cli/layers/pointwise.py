"""Products of images with small matrices, the arithmetic of 1x1 convolutions, with fused gradients.

An image batch (n, c, h, w) in channels_last memory is a matrix of n*h*w pixels by c channels. All
functions here are twice differentiable: their backward passes are made of differentiable operations.

Where no graph of the backward pass is wanted, gradients that arrive are overwritten. That is safe in a
SharedState alone: what arrives was made for this one use, by Mix, AffineRelu or a depthwise convolution.
"""

from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Part = TypeVar("Part")
PARTS, MANY = 16, 1 << 15
"""Into so many parts pixels are divided to be summed, where they are so many."""


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


def channel_sums(blocks: Tensor) -> Tensor:
    """(..., pixels, channels) to (..., channels); many pixels in parts, which a processor's threads share."""
    count = blocks.shape[-2]
    if blocks.device.type != "cpu" or count < MANY or count % PARTS:
        return blocks.sum(-2)
    parts: Tensor = blocks.unflatten(-2, (PARTS, -1))
    return parts.sum(-2).sum(-2)


def inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Of each channel of pixels (m, c) with each of others (m, o): (c, o).

    A processor's threads do not share such a product, so that each is given a part of the pixels.
    """
    parts = torch.get_num_threads() if left.device.type == "cpu" else 1
    if parts == 1 or len(left) % parts:
        return left.t().mm(right)
    of_left, of_right = left.unflatten(0, (parts, -1)), right.unflatten(0, (parts, -1))
    products: Tensor = torch.bmm(of_left.transpose(1, 2), of_right)
    return products.sum(0)


class AffineRelu(torch.autograd.Function):
    """relu(images @ matrix + bias) for each of r image batches; matrices (r, c, o), biases (r, o)."""

    @staticmethod
    def forward(ctx: FunctionCtx, matrices: Tensor, biases: Tensor, *batches: Tensor) -> tuple[Tensor, ...]:
        results = tuple(
            images_of(torch.addmm(biases[r], pixels(images), matrices[r]).relu_(), images)
            for r, images in enumerate(batches)
        )
        ctx.save_for_backward(matrices, *batches, *results)
        return results

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        matrices, *saved = ctx.saved_tensors
        num_batches = len(gradients)
        for_batches: list[Tensor | None] = []
        for_matrices, for_biases = [], []
        for r, gradient in enumerate(gradients):
            images, result = saved[r], saved[num_batches + r]
            open_gradient = pixels(rectified_gradient(gradient, result))
            for_matrices.append(inner_product(pixels(images), open_gradient))
            for_biases.append(channel_sums(open_gradient))
            needed = ctx.needs_input_grad[2 + r]
            for_batches.append(images_of(open_gradient.mm(matrices[r].t()), images) if needed else None)
        return torch.stack(for_matrices), torch.stack(for_biases), *for_batches


def rectified_gradient(gradient: Tensor, result: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        through: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0)
        return through
    torch.ops.aten.threshold_backward.grad_input(gradient, result, 0, grad_input=gradient)
    return gradient


class Mix(torch.autograd.Function):
    """bias + sum of values + sum of images @ matrix: a node, from everything that arrives there.

    Arguments: how many values, how many products, the bias (o), the values (n, o, h, w), the images
    (n, c, h, w), their matrices (c, o).
    """

    @staticmethod
    def forward(ctx: Context, num_values: int, num_images: int, bias: Tensor, *tensors: Tensor) -> Tensor:
        values, images, matrices = _parts(tensors, num_values, num_images)
        ctx.num_values, ctx.num_images = num_values, num_images
        ctx.save_for_backward(*images, *matrices)
        total = torch.addmm(bias, pixels(images[0]), matrices[0])
        for batch, matrix in zip(images[1:], matrices[1:], strict=True):
            total.addmm_(pixels(batch), matrix)
        for value in values:
            total.add_(pixels(value))
        return images_of(total, images[0])

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, images, matrices = _parts(ctx.saved_tensors, 0, ctx.num_images)
        _, need_images, need_matrices = _parts(ctx.needs_input_grad[3:], ctx.num_values, ctx.num_images)
        flat = pixels(gradient)
        for_images = [
            images_of(flat.mm(matrix.t()), batch) if needed else None
            for batch, matrix, needed in zip(images, matrices, need_images, strict=True)
        ]
        for_matrices = [
            inner_product(pixels(batch), flat) if needed else None
            for batch, needed in zip(images, need_matrices, strict=True)
        ]
        for_bias = channel_sums(flat) if ctx.needs_input_grad[2] else None
        return None, None, for_bias, *(gradient,) * ctx.num_values, *for_images, *for_matrices


def _parts(
    tensors: tuple[Part, ...], num_values: int, num_images: int
) -> tuple[tuple[Part, ...], tuple[Part, ...], tuple[Part, ...]]:
    end = num_values + num_images
    return tensors[:num_values], tensors[num_values:end], tensors[end:]
