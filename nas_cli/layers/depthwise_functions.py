"""Depthwise convolution and its two gradients, each linear in both of its arguments.

The derivatives of each are the two others, so that a second derivative costs as much as a first one: torch's
own calls a convolution for each channel.

oneDNN's weight gradient takes 5 to 20 times as long as forward where the kernel, or the padding of the
width, is wider than it has code for (3 and 1): it is computed as narrower ones, exactly; with a stride of 2,
as those of the phases of the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nas_cli.layers.phases import split_phases
from nas_cli.layers.products import add_convolution
from nas_cli.run.environment import is_amd

# The columns of a wide kernel whose weight gradients are computed together: at most 3
COLUMNS = {5: (3, 2), 7: (3, 2, 2)}
# Below this width, columns are cheaper than pairs of pixels
NARROWEST_PAIRED = 8


@dataclass(frozen=True, slots=True)
class Geometry:
    kernel: int
    stride: int
    padding: int
    dilation: int

    @staticmethod
    def centred(kernel: int) -> "Geometry":
        """Every pixel with those around it."""
        return Geometry(kernel, 1, kernel // 2, 1)

    @property
    def is_centred(self) -> bool:
        """A convolution of neighbouring pixels around each, or around every second one."""
        return self.dilation == 1 and self.padding == self.kernel // 2


class Source:
    """Images that convolutions read, and their phases: split once for all weight gradients."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @cached_property
    def phases(self) -> tuple[Tensor, ...]:
        return split_phases(self.images).chunk(4)


@dataclass(frozen=True, slots=True)
class Columns:
    """What a weight gradient (c, 1, 5, 5) is put together from.

    The middle columns (c, 1, 5, 3); the outer ones, first and last of (2 c, 1, 5, 3), of the left and of
    the right ones of paired pixels.
    """

    middle: Tensor
    outer: Tensor


class _GeometryContext(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    geometry: Geometry


class Convolve(torch.autograd.Function):
    """Arguments: the geometry, images (n, c, h, w), weight (c, 1, kernel, kernel)."""

    @staticmethod
    def forward(ctx: _GeometryContext, geometry: Geometry, x: Tensor, weight: Tensor) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, weight)
        return convolve(geometry, x, weight)

    @staticmethod
    def backward(ctx: _GeometryContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        for_x, for_weight = gradients_of(ctx.geometry, Source(x), weight, gradient, wanted)
        return None, for_x, *join_columns([for_weight])


class InputGradient(torch.autograd.Function):
    """Arguments: the geometry, images of the size and layout that is asked for, gradient, weight."""

    @staticmethod
    def forward(
        ctx: _GeometryContext, geometry: Geometry, like: Tensor, gradient: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(gradient, weight)
        return _input_gradient(geometry, like, gradient, weight)

    @staticmethod
    def backward(ctx: _GeometryContext, images: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        return (
            None,
            None,
            Convolve.apply(ctx.geometry, images, weight) if ctx.needs_input_grad[2] else None,
            WeightGradient.apply(ctx.geometry, images, gradient) if ctx.needs_input_grad[3] else None,
        )


class WeightGradient(torch.autograd.Function):
    """Arguments: the geometry, images, gradient."""

    @staticmethod
    def forward(ctx: _GeometryContext, geometry: Geometry, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, gradient)
        (for_weight,) = join_columns([_weight_gradient(geometry, Source(x), gradient)])
        return for_weight

    @staticmethod
    def backward(ctx: _GeometryContext, weight: Tensor) -> tuple[Tensor | None, ...]:
        x, gradient = ctx.saved_tensors
        return (
            None,
            InputGradient.apply(ctx.geometry, x, gradient, weight) if ctx.needs_input_grad[1] else None,
            Convolve.apply(ctx.geometry, x, weight) if ctx.needs_input_grad[2] else None,
        )


def convolve(geometry: Geometry, x: Tensor, weight: Tensor) -> Tensor:
    """Without a graph."""
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, x.shape[1])


def gradients_of(
    geometry: Geometry,
    source: Source,
    weight: Tensor,
    gradient: Tensor,
    wanted: tuple[bool, bool],
    *,
    total: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | Columns | None]:
    """Of images and weight, where they are wanted; differentiable where a graph is.

    That of the images is added to the `total` of those before, in place where no graph is wanted. That of
    the weight is for `join_columns`.
    """
    x = source.images
    for_weight: Tensor | Columns | None
    if torch.is_grad_enabled():
        for_x = InputGradient.apply(geometry, x, gradient, weight) if wanted[0] else None
        for_weight = WeightGradient.apply(geometry, x, gradient) if wanted[1] else None
    elif wanted[0] and total is not None and _is_convolution(geometry, x):
        turned = weight.flip(2, 3)
        add_convolution(total, gradient, turned, padding=geometry.padding, groups=x.shape[1])
        return total, _weight_gradient(geometry, source, gradient) if wanted[1] else None
    elif _is_slow(geometry, x) or _is_convolution(geometry, x):
        for_x = _input_gradient(geometry, x, gradient, weight) if wanted[0] else None
        for_weight = _weight_gradient(geometry, source, gradient) if wanted[1] else None
    else:
        for_x, for_weight = _both_gradients(geometry, x, gradient, weight, wanted)
    return add_gradients(total, for_x), for_weight


@overload
def join_columns(gradients: Sequence[Tensor | Columns]) -> list[Tensor]: ...


@overload
def join_columns(gradients: Sequence[Tensor | Columns | None]) -> list[Tensor | None]: ...


def join_columns(gradients: Sequence[Tensor | Columns | None]) -> Sequence[Tensor | None]:
    """Gradients of the weights of several edges, all that are in parts put together at once."""
    parts = [gradient for gradient in gradients if isinstance(gradient, Columns)]
    if not parts:
        return [gradient for gradient in gradients if not isinstance(gradient, Columns)]
    together = torch.cat([columns for part in parts for columns in (part.middle, part.outer)])
    middle, outer = together.unflatten(0, (len(parts), 3, -1)).split([1, 2], dim=1)
    outer = outer.sum(1, keepdim=True)
    joined = iter(torch.cat([outer[..., :1], middle, outer[..., 2:]], dim=5).squeeze(1).unbind())
    return [next(joined) if isinstance(gradient, Columns) else gradient for gradient in gradients]


def add_gradients(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """In place of the total where no graph is wanted."""
    if total is None or part is None:
        return part if total is None else total
    return total + part if torch.is_grad_enabled() else total.add_(part)


def _is_slow(geometry: Geometry, x: Tensor) -> bool:
    """A map so narrow that columns of the kernel meet none of its pixels is left to the plain call."""
    kernel = geometry.kernel
    if x.device.type != "cpu" or kernel not in COLUMNS or not geometry.is_centred:
        return False
    height, width = x.shape[2:]
    if geometry.stride == 2:
        return height % 2 == 0 and width % 2 == 0 and width >= 2 * kernel
    return geometry.stride == 1 and width >= kernel // 2 - 1


def _is_convolution(geometry: Geometry, x: Tensor) -> bool:
    """Where a convolution of the gradient, with the kernel turned round, is the quicker of two equal ways.

    Measured on AMD's processors alone: oneDNN takes 1.1 to 2.8 times as long for the gradient as such
    (`benchmarks/depthwise.py`).
    """
    keeps_size = geometry.is_centred and geometry.stride == 1
    return keeps_size and is_amd() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _both_gradients(
    geometry: Geometry, x: Tensor, gradient: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation = (
        (size,) * 2 for size in (geometry.stride, geometry.padding, geometry.dilation)
    )
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, (0, 0), x.shape[1], (*wanted, False)
    )
    return for_x, for_weight


def _input_gradient(geometry: Geometry, x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """torch.nn.grad.conv2d_input would lose the memory layout of x."""
    if _is_convolution(geometry, x):
        return convolve(geometry, gradient, weight.flip(2, 3))
    for_x, _ = _both_gradients(geometry, x, gradient, weight, (True, False))
    assert for_x is not None
    return for_x


def _weight_gradient(geometry: Geometry, source: Source, gradient: Tensor) -> Tensor | Columns:
    x, kernel = source.images, geometry.kernel
    if not _is_slow(geometry, x):
        weight = x.new_empty(x.shape[1], 1, kernel, kernel)
        _, for_weight = _both_gradients(geometry, x, gradient, weight, (False, True))
        assert for_weight is not None
        return for_weight
    if geometry.stride == 2:
        return _weight_gradient_by_phases(source.phases, gradient, kernel)
    return _wide_weight_gradient(x, gradient, kernel)


def _weight_gradient_by_phases(phases: Sequence[Tensor], gradient: Tensor, kernel: int) -> Tensor:
    """A tap of the kernel meets pixels of one phase, where all taps are those of a smaller kernel."""
    reach = (kernel // 2 + 1) // 2
    smaller = Geometry(2 * reach + 1, 1, reach, 1)
    found = torch.stack(
        join_columns([_weight_gradient(smaller, Source(phase), gradient) for phase in phases])
    )
    taps = found.view(2, 2, -1, smaller.kernel, smaller.kernel).permute(2, 3, 0, 4, 1)
    in_order = taps.reshape(-1, 1, 2 * smaller.kernel, 2 * smaller.kernel)
    start = 2 * reach - kernel // 2
    return in_order[:, :, start : start + kernel, start : start + kernel]


def _wide_weight_gradient(x: Tensor, gradient: Tensor, kernel: int) -> Tensor | Columns:
    if kernel == 5 and x.shape[3] % 2 == 0 and x.shape[3] >= NARROWEST_PAIRED:
        return Columns(_three_columns(x, gradient), _three_columns(_paired(x), _paired(gradient)))
    widths = COLUMNS[kernel]
    parts = zip(_starts(widths), widths, strict=True)
    columns = [_columns(_pad(x, kernel, start, width), gradient, kernel, width) for start, width in parts]
    return torch.cat(columns, dim=3)


def _paired(images: Tensor) -> Tensor:
    """Two pixels side by side as one of twice the channels, which makes the outer columns neighbours."""
    n, c, h, w = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided((n, 2 * c, h, w // 2), (h * w * c, 1, w * c, 2 * c))


def _three_columns(x: Tensor, gradient: Tensor) -> Tensor:
    """The middle ones of five."""
    return _kernel_gradient(x, gradient, (5, 3), (2, 1))


def _starts(widths: Sequence[int]) -> list[int]:
    return list(accumulate(widths[:-1], initial=0))


def _pad(x: Tensor, kernel: int, start: int, width: int) -> Tensor:
    """The images as `width` columns of the kernel from `start` on meet them.

    Those of fewer rows than the kernel are padded in height too: oneDNN's own padding is slow there.
    """
    rows = kernel // 2 if x.shape[2] < kernel else 0
    left = kernel // 2 - start
    return F.pad(x, (left, width - 1 - left, rows, rows))


def _columns(padded: Tensor, gradient: Tensor, kernel: int, columns: int) -> Tensor:
    padding = ((gradient.shape[2] + kernel - 1 - padded.shape[2]) // 2, 0)
    return _kernel_gradient(padded, gradient, (kernel, columns), padding)


def _kernel_gradient(x: Tensor, gradient: Tensor, size: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Of a kernel of this size (rows, columns), without stride."""
    channels = x.shape[1]
    geometry = (1, 1), padding, (1, 1), False, (0, 0), channels
    _, for_kernel, _ = torch.ops.aten.convolution_backward(
        gradient, x, x.new_empty(channels, 1, *size), None, *geometry, (False, True, False)
    )
    found: Tensor = for_kernel
    return found
