"""Products of many pixels with small matrices, the arithmetic of 1x1 convolutions, without a graph.

Pixels are images (n, c, h, w), or blocks (e, pixels, c), stacked or side by side: see `blocks.py`. A
processor has two libraries for them: MKL, which is torch's for products, and oneDNN, its for convolutions. On
Intel's processors MKL is the quicker. On AMD's oneDNN is, by half of the time where blocks lie side by side
(`benchmarks/products.py`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_cli.run.environment import is_amd

ROWS, VECTOR = 64, 16
"""oneDNN is given pixels of blocks in so many rows, and channels by the vector."""
MANY_ROWS = 256
"""Rows for the inner products of one block."""
PARTS, MANY = 32, 1 << 14
"""Into so many parts pixels are divided to be summed, where they are so many."""


def product(blocks: Tensor, matrices: Tensor, biases: Tensor | None = None) -> Tensor:
    """blocks @ matrices (e, c, o) + biases (e, o), in the layout of the blocks."""
    edges = len(blocks)
    if convolves_blocks(blocks, matrices.shape[2]):
        bias = None if biases is None else biases.flatten()
        return _blocks(F.conv2d(_rows(blocks), _kernels(matrices), bias, groups=edges), edges)
    if edges == 1 and biases is not None:
        return torch.addmm(biases[0], blocks[0], matrices[0]).unsqueeze(0)
    result = torch.bmm(blocks, matrices, out=_empty_like(blocks, matrices.shape[2]))
    return result if biases is None else result.add_(biases.unsqueeze(1))


def stacked_product(blocks: Tensor, matrices: Tensor) -> Tensor:
    """The same, stacked whatever the layout of the blocks."""
    if convolves_blocks(blocks, matrices.shape[2]):
        return product(blocks, matrices).contiguous()
    return torch.bmm(blocks, matrices)


def add_product(total: Tensor, blocks: Tensor, matrices: Tensor, biases: Tensor | None = None) -> Tensor:
    """The same, added in place to `total`."""
    if convolves_blocks(blocks, matrices.shape[2]):
        return total.add_(product(blocks, matrices, biases))
    total.baddbmm_(blocks, matrices)
    return total if biases is None else total.add_(biases.unsqueeze(1))


def add_convolution(
    total: Tensor,
    images: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """F.conv2d(images, kernels, bias), added to `total` in place: by oneDNN's own sum where it has one."""
    if _sums(total):
        sizes = (padding, padding), (1, 1), (1, 1), groups
        torch.ops.mkldnn._convolution_pointwise_.binary(
            total, images, kernels, bias, *sizes, "add", None, None, [], None
        )
        return total
    return total.add_(F.conv2d(images, kernels, bias, padding=padding, groups=groups))


def _sums(total: Tensor) -> bool:
    return (
        total.device.type == "cpu"
        and total.dtype == torch.float32
        and total.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.is_available()
    )


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Of each channel of left (e, pixels, c) with each of right (e, pixels, o): (e, c, o)."""
    if _convolve_both(left, right):
        return _by_gradient(left, right)
    if len(left) == 1:
        return _in_parts(left[0], right[0]).unsqueeze(0)
    return torch.bmm(left.transpose(1, 2), right)


def inner_products_of_images(left: Tensor, right: Tensor) -> Tensor:
    """Of each channel of images (n, c, h, w) with each of others (n, o, h, w): (c, o)."""
    if _convolves_lines(left, right.shape[1]) and _convolves_lines(right, left.shape[1]):
        return _gradient_of_kernels(_lines(left), _lines(right), 1).flatten(1).t()
    of_left, of_right = (images.permute(0, 2, 3, 1).flatten(0, 2) for images in (left, right))
    return _in_parts(of_left, of_right)


def inner_products_and_sums(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the sums (e, o) of right: oneDNN could give both in one call, which takes longer."""
    return inner_products(left, right), sums_of_pixels(right)


def sums_of_pixels(blocks: Tensor) -> Tensor:
    """(e, c); by a product where edges lie side by side: one thread is quicker with it than with a sum."""
    threads = torch.get_num_threads() if blocks.device.type == "cpu" else 1
    if threads > 1 or not lie_side_by_side(blocks):
        return channel_sums(blocks)
    return (blocks.new_ones(1, blocks.shape[1]) @ blocks.transpose(0, 1).flatten(1)).view(len(blocks), -1)


def channel_sums(blocks: Tensor) -> Tensor:
    """(..., pixels, channels) to (..., channels); many pixels in parts, which a processor's threads share."""
    parts = _num_parts(blocks, blocks.shape[-2])
    if parts == 1:
        return blocks.sum(-2)
    in_parts: Tensor = blocks.unflatten(-2, (parts, -1))
    return in_parts.sum(-2).sum(-2)


def partial_sums(images: Tensor) -> Tensor:
    """Sums (parts, c) of the channels of images (n, c, h, w) over some of the pixels each.

    What is left to add up is so little that the images of several edges are better added up together.
    """
    channels = images.shape[1]
    parts = _num_parts(images, images.numel() // channels)
    return images.permute(0, 2, 3, 1).reshape(parts, -1, channels).sum(1)


def _num_parts(pixels: Tensor, count: int) -> int:
    return PARTS if pixels.device.type == "cpu" and count >= MANY and count % PARTS == 0 else 1


def lay_side_by_side(blocks: Tensor) -> Tensor:
    """A copy, where oneDNN could multiply that; else the blocks as they are."""
    channels = blocks.shape[2]
    if lie_side_by_side(blocks) or not _prefers_onednn(blocks, channels, channels):
        return blocks
    return blocks.transpose(0, 1).contiguous().transpose(0, 1)


def lie_side_by_side(blocks: Tensor) -> bool:
    return blocks.stride(0) < blocks.stride(1)


def multiplies(images: Tensor, out_channels: int) -> bool:
    """Whether oneDNN multiplies images (n, c, h, w) with a matrix (c, o)."""
    return _prefers_onednn(images, images.shape[1], out_channels) and images.is_contiguous(
        memory_format=torch.channels_last
    )


def linear(pixels: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Pixels (p, c) @ matrix (c, o) + bias (o) by oneDNN, in less time than its 1x1 convolution takes.

    It could rectify too, but makes zeros of what is not a number.
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(pixels, matrix.t(), bias, "none", [], "")
    return result


def convolves_blocks(blocks: Tensor, out_channels: int) -> bool:
    """Whether it multiplies blocks: in one call, where they are one or lie side by side."""
    _, count, channels = blocks.shape
    return _prefers_onednn(blocks, channels, out_channels) and count % ROWS == 0 and _are_dense(blocks)


def _prefers_onednn(tensor: Tensor, channels: int, out_channels: int) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and channels % VECTOR == 0
        and out_channels % VECTOR == 0
        and not torch.is_grad_enabled()
        and is_amd()
        and torch.backends.mkldnn.is_available()
    )


def _convolve_both(left: Tensor, right: Tensor) -> bool:
    return convolves_blocks(left, right.shape[2]) and convolves_blocks(right, left.shape[2])


def _by_gradient(left: Tensor, right: Tensor) -> Tensor:
    """As the gradient of the kernels of a convolution of left, where right arrives."""
    edges, count, channels = right.shape
    rows = _many_rows(count) if edges == 1 else ROWS
    found = _gradient_of_kernels(_rows(left, rows), _rows(right, rows), edges)
    return found.view(edges, channels, -1).transpose(1, 2)


def _gradient_of_kernels(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """Of a 1x1 convolution's (o, c, 1, 1): of left (n, groups c, h, w), where right (n, o, h, w) arrives."""
    kernels = left.new_empty(right.shape[1], left.shape[1] // groups, 1, 1)
    geometry = (1, 1), (0, 0), (1, 1), False, (0, 0), groups
    _, for_kernels, _ = torch.ops.aten.convolution_backward(
        right, left, kernels, None, *geometry, (False, True, False)
    )
    found: Tensor = for_kernels
    return found


def _convolves_lines(images: Tensor, out_channels: int) -> bool:
    n, _, h, w = images.shape
    return n * h * w % ROWS == 0 and multiplies(images, out_channels)


def _lines(images: Tensor) -> Tensor:
    """(n, c, h, w) in channels_last memory as so many images of one line."""
    n, channels, h, w = images.shape
    count = n * h * w
    return _as_lines(images, _many_rows(count), count, channels)


def _many_rows(count: int) -> int:
    return MANY_ROWS if count % MANY_ROWS == 0 else ROWS


def _as_lines(pixels: Tensor, rows: int, count: int, depth: int) -> Tensor:
    width = count // rows
    return pixels.as_strided((rows, depth, 1, width), (width * depth, 1, width * depth, depth))


def _are_dense(blocks: Tensor) -> bool:
    """Pixel by pixel in memory, each with the channels of all blocks."""
    edges, _, channels = blocks.shape
    return blocks.stride()[1:] == (edges * channels, 1) and (edges == 1 or blocks.stride(0) == channels)


def _rows(blocks: Tensor, rows: int = ROWS) -> Tensor:
    """Images of one line (rows, e c, 1, pixels / rows)."""
    edges, count, channels = blocks.shape
    return _as_lines(blocks, rows, count, edges * channels)


def _blocks(rows: Tensor, edges: int) -> Tensor:
    """The inverse of `_rows`."""
    depth, width = rows.shape[1], rows.shape[3]
    channels = depth // edges
    return rows.as_strided((edges, ROWS * width, channels), (channels, depth, 1))


def _kernels(matrices: Tensor) -> Tensor:
    """(e, c, o) as those of a grouped convolution (e o, c, 1, 1)."""
    edges, channels, out_channels = matrices.shape
    return matrices.transpose(1, 2).reshape(edges * out_channels, channels, 1, 1)


def _empty_like(blocks: Tensor, channels: int) -> Tensor:
    edges, count, _ = blocks.shape
    if lie_side_by_side(blocks):
        return blocks.new_empty(count, edges, channels).transpose(0, 1)
    return blocks.new_empty(edges, count, channels)


def _in_parts(left: Tensor, right: Tensor) -> Tensor:
    """A processor's threads do not share MKL's product, so that each is given a part of the pixels."""
    parts = torch.get_num_threads() if left.device.type == "cpu" else 1
    if parts == 1 or len(left) % parts:
        return left.t().mm(right)
    of_left, of_right = left.unflatten(0, (parts, -1)), right.unflatten(0, (parts, -1))
    products: Tensor = torch.bmm(of_left.transpose(1, 2), of_right)
    return products.sum(0)
