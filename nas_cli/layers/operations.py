"""The candidates of the cell spaces, each by its definition.

DARTS (arXiv:1806.09055) has the separable and dilated convolutions, NAS-Bench-201 (arXiv:2001.00326)
the plain ones, NASNet (arXiv:1707.07012) those in a bottleneck; pooling and the skip are of all three.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.errors import UnsupportedError
from nas_cli.layers.depthwise import depthwise_conv2d
from nas_cli.layers.drop_path import DropPath
from nas_cli.layers.every_second import DIAGONAL, every

Size = tuple[int, int]
"""Height and width."""


class Zero(nn.Module):
    """The candidate `none`: zeros of the size the other candidates give."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution. It takes every second pixel before it convolves, not while it does.

    The weights' gradient of a strided 1x1 convolution is written past its memory by oneDNN, where
    images are channels_last and channels are few: wrong numbers or a crash (oneDNN issue 6035).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int | Size) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(every(x, (0, rows, columns)), self.weight)


class FactorizedReduce(nn.Module):
    """Halve the size: two 1x1 convolutions of stride 2, the second one pixel further, side by side.

    Sizes are rounded up; where the size is odd, the shifted image ends in a row and a column of zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, *, affine: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = PointwiseConv(in_channels, out_channels - half, stride=2)
        self.odd = PointwiseConv(in_channels, half, stride=1)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    @property
    def kernel(self) -> Tensor:
        """Of the one 1x1 convolution that both are, of the even pixels beside the odd ones."""
        joined: Tensor = torch.block_diag(self.even.weight.flatten(1), self.odd.weight.flatten(1))
        return joined

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        joined: Tensor = self.norm(torch.cat([self.even(x), self.odd(odd_pixels(x))], dim=1))
        return joined


def odd_pixels(x: Tensor) -> Tensor:
    """Those of every second row and column from the second on; there are as many as even ones."""
    height, width = x.shape[2:]
    even = F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
    return every(even, DIAGONAL)


class ReluConvBN(nn.Module):
    """ReLU, convolution, batch normalisation: the candidate of NAS-Bench-201, the preprocessing of DARTS."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Size,
        stride: int | Size,
        padding: int | Size,
        *,
        affine: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = (
            PointwiseConv(in_channels, out_channels, stride)
            if (kernel, padding) == (1, 0)
            else nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
        )
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(torch.relu(x)))
        return normalised


class BottleneckConv(nn.Sequential):
    """A 1x1 convolution to fewer channels, convolutions of some kernels there, a 1x1 convolution back.

    NASNet's paper (arXiv:1707.07012) names the inner convolutions alone; its authors' code (tensorflow/tpu,
    amoeba_net/network_utils.py) has this bottleneck, and the published numbers of parameters need it.
    Each inner convolution halves the sides along which its kernel is longer than 1.
    """

    def __init__(
        self, channels: int, inner: int, kernels: Sequence[Size], stride: int, dilation: int, *, affine: bool
    ) -> None:
        super().__init__(
            ReluConvBN(channels, inner, 1, 1, 0, affine=affine),
            *(_inner_conv(inner, kernel, stride, dilation, affine=affine) for kernel in kernels),
            ReluConvBN(inner, channels, 1, 1, 0, affine=affine),
        )


def _inner_conv(channels: int, kernel: Size, stride: int, dilation: int, *, affine: bool) -> ReluConvBN:
    height, width = kernel
    strides = (stride if height > 1 else 1, stride if width > 1 else 1)
    padding = (dilation * (height // 2), dilation * (width // 2))
    return ReluConvBN(channels, channels, kernel, strides, padding, affine=affine, dilation=dilation)


class SeparableConv(nn.Module):
    """ReLU, depthwise convolution that keeps (or halves) the size, pointwise convolution, normalisation.

    With `plain` the depthwise convolution is torch's own call, whatever it costs.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, *, affine: bool, plain: bool
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.kernel, self.stride, self.dilation, self.padding = kernel, stride, dilation, padding
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.pointwise(self.convolve(torch.relu(x))))
        return normalised

    def convolve(self, x: Tensor) -> Tensor:
        if self.plain:
            convolved: Tensor = self.depthwise(x)
            return convolved
        return depthwise_conv2d(
            x, self.depthwise.weight, stride=self.stride, padding=self.padding, dilation=self.dilation
        )


class SeparableStack(nn.Sequential):
    """Separable convolutions one after the other: two, with the stride in the first, or one dilated."""

    def __init__(self, *stages: SeparableConv) -> None:
        super().__init__(*stages)

    @property
    def stages(self) -> tuple[SeparableConv, ...]:
        return tuple(stage for stage in self if isinstance(stage, SeparableConv))


class Pool(nn.Module):
    """Pooling that keeps (or halves) the size; padding is not counted."""

    def __init__(self, pool: nn.Module, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm2d(channels, affine=False) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x)
        return pooled if self.norm is None else self.norm(pooled)


def make_operation(
    name: str, channels: int, stride: int, *, affine: bool, pool_norm: bool, plain: bool = False
) -> nn.Module:
    """One candidate, channels to channels. Raises UnsupportedError on an unknown name.

    `affine`: batch normalisation has a learned scale and shift. `pool_norm`: pooling is followed by
    a batch normalisation without them, as in DARTS' search network. `plain`: see SeparableConv.
    """
    if name in POOLS:
        return Pool(POOLS[name](stride), channels, norm=pool_norm)
    if name in SEPARABLE:
        return _separable(name, channels, stride, affine=affine, plain=plain)
    if name in FULL_KERNELS:
        kernel = FULL_KERNELS[name]
        return ReluConvBN(channels, channels, kernel, stride, kernel // 2, affine=affine)
    if name in BOTTLENECKS:
        kernels, dilation, share = BOTTLENECKS[name]
        inner = max(1, int(share * channels))
        return BottleneckConv(channels, inner, kernels, stride, dilation, affine=affine)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)
    if name == "none":
        return Zero(stride)
    raise UnsupportedError(f"There is no operation {name!r}; there are {', '.join(OPERATIONS)}.")


def make_final_operation(name: str, channels: int, stride: int) -> nn.Module:
    """An edge of a final network: affine norms, none after pools, drop path.

    A dropped identity would leave a cell without any path, so it is kept.
    """
    operation = make_operation(name, channels, stride, affine=True, pool_norm=False)
    return operation if isinstance(operation, nn.Identity) else nn.Sequential(operation, DropPath())


def _separable(name: str, channels: int, stride: int, *, affine: bool, plain: bool) -> SeparableStack:
    kernel, dilation, repeats = SEPARABLE[name]
    stages = [
        SeparableConv(channels, kernel, stride if k == 0 else 1, dilation, affine=affine, plain=plain)
        for k in range(repeats)
    ]
    return SeparableStack(*stages)


POOLS: dict[str, Callable[[int], nn.Module]] = {
    "max_pool_3x3": lambda stride: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "max_pool_5x5": lambda stride: nn.MaxPool2d(5, stride, padding=2),
    "max_pool_7x7": lambda stride: nn.MaxPool2d(7, stride, padding=3),
}
# kernel, dilation, how often it is applied
SEPARABLE: dict[str, tuple[int, int, int]] = {
    "sep_conv_3x3": (3, 1, 2),
    "sep_conv_5x5": (5, 1, 2),
    "sep_conv_7x7": (7, 1, 2),
    "dil_conv_3x3": (3, 2, 1),
    "dil_conv_5x5": (5, 2, 1),
}
FULL_KERNELS: dict[str, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
# the inner kernels, their dilation, the inner share of the channels
BOTTLENECKS: dict[str, tuple[tuple[Size, ...], int, float]] = {
    "bottleneck_conv_3x3": (((3, 3),), 1, 1 / 4),
    "bottleneck_dil_conv_3x3": (((3, 3),), 2, 1 / 4),
    "bottleneck_conv_1x3_3x1": (((1, 3), (3, 1)), 1, 3 / 8),
    "bottleneck_conv_1x7_7x1": (((1, 7), (7, 1)), 1, 1 / 4),
}
OPERATIONS: tuple[str, ...] = ("none", "skip_connect", *POOLS, *SEPARABLE, *FULL_KERNELS, *BOTTLENECKS)
