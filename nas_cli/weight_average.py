"""An exponential average of a network's weights, which often tests better than the last weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """torch's AveragedModel of weights and batch statistics, for `update_parameters` after each step.

    The decay rises to `decay` over the first steps, so that the first weights are soon forgotten. It is
    computed from the count that AveragedModel keeps on the host: no device is waited for.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor | int) -> None:
        count = int(average.n_averaged)
        share = 1 - min(decay, (1 + count) / (10 + count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, share)
        else:  # batch norm counts its batches in integers
            torch._foreach_copy_(averages, currents)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
    return average
