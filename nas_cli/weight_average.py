"""An exponential average of a network's weights, which often tests better than the last weights."""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of the network whose weights and batch statistics follow it slowly.

    The decay rises to `decay` over the first steps, so that the first weights are soon forgotten. torch's
    AveragedModel would wait for a GPU once a parameter and step, as it sends the step's number there.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for averaged, current in zip(_tensors(self.network), _tensors(network), strict=True):
            if averaged.is_floating_point():
                averaged.lerp_(current, 1 - decay)
            else:  # batch norm counts its batches in integers
                averaged.copy_(current)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())
