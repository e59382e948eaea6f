"""What a network costs: parameters and multiply-adds, counted without training it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.data import ImageInfo
from nas_cli.stand_ins import StandIns


@dataclass(frozen=True, slots=True)
class Cost:
    """`parameters` are trainable numbers; `multiply_adds` are those of one image's forward pass."""

    parameters: int
    multiply_adds: int


def cost_of(network: nn.Module, info: ImageInfo) -> Cost:
    return Cost(count_parameters(network), multiply_adds(network, info))


def count_parameters(network: nn.Module) -> int:
    """All parameters of the network as built. Papers count without the auxiliary head: build without."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, info: ImageInfo) -> int:
    """Multiply-adds of convolutions and linear layers for one image, in evaluation mode.

    Norms, pools, sums and biases are left out. A network on the meta device is counted without
    computing anything.
    """
    counted = _ByShape()
    with evaluation_mode(network), torch.no_grad():
        try:
            with counted:
                network(torch.zeros(1, info.channels, info.size, info.size))
        except (_OtherProductError, RuntimeError):
            return _operation_by_operation(network, info)
    return counted.total


def _operation_by_operation(network: nn.Module, info: ImageInfo) -> int:
    """Knows every product of torch; on the meta device it takes ten times as long."""
    # It imports Triton: 75 MB and a tenth of a second that most commands have no use for.
    from torch.utils.flop_counter import FlopCounterMode

    like = next(network.parameters())
    image = torch.zeros(1, info.channels, info.size, info.size, device=like.device, dtype=like.dtype)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


class _OtherProductError(Exception):
    """Neither a convolution of images nor a linear layer."""


OTHER_PRODUCTS = frozenset(
    getattr(where, name)
    for where, names in (
        (torch, "mm bmm matmul addmm baddbmm einsum tensordot"),
        (torch, "conv1d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
        (torch.Tensor, "mm bmm matmul addmm baddbmm __matmul__ __rmatmul__"),
        (F, "bilinear scaled_dot_product_attention multi_head_attention_forward"),
    )
    for name in names.split()
)


class _ByShape(StandIns):
    """Convolutions and linear layers give zeros of the right size, norms what they get; no weight is read.

    What is left, such as sums and pools, is computed for one image: on the meta device each of them is a
    Python program.
    """

    def __init__(self) -> None:
        super().__init__(
            dict.fromkeys(OTHER_PRODUCTS, _refuse)
            | {F.batch_norm: _as_it_was, F.conv2d: self._convolved, F.linear: self._transformed}
        )
        self.total = 0

    def _convolved(  # noqa: PLR0917  torch's own signature
        self,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or images.shape[1] != weight.shape[1] * groups:
            raise _OtherProductError
        rows, columns = (
            (images.shape[side] + 2 * pad - apart * (weight.shape[side] - 1) - 1) // step + 1
            for side, pad, apart, step in zip(
                (2, 3), _pair(padding), _pair(dilation), _pair(stride), strict=True
            )
        )
        self.total += images.shape[0] * weight.numel() * rows * columns
        return images.new_zeros(images.shape[0], weight.shape[0], rows, columns)

    def _transformed(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.shape[-1] != weight.shape[1]:
            raise _OtherProductError
        self.total += x.shape[:-1].numel() * weight.numel()
        return x.new_zeros(*x.shape[:-1], weight.shape[0])


def _refuse(*operands: Tensor, **settings: float) -> NoReturn:
    raise _OtherProductError


def _as_it_was(x: Tensor, *statistics: Tensor, **settings: float) -> Tensor:
    return x


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Every module goes back to its own mode afterwards: some may have been frozen one by one."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
