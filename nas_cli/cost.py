"""What a network costs: parameters and multiply-adds, counted without training it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from nas_cli.data import ImageInfo


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
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, a tenth of a second

    like = next(network.parameters())
    image = torch.zeros(1, info.channels, info.size, info.size, device=like.device, dtype=like.dtype)
    with evaluation_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


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
