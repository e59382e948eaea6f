"""The running statistics of batch normalisations that others compute: one update for a whole cell."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Statistics:
    """What a cell's batch normalisations saw of a batch, until `track` moves the running ones there.

    `num_batches_tracked` is not counted: nobody reads it where there is a momentum, and a thousand counters
    a step are a tenth of all operations.
    """

    def __init__(self) -> None:
        self.norms: list[nn.BatchNorm2d] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def add(self, norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor) -> None:
        """Of each norm (r, c), or the same for all (1, c); the variance unbiased, as torch has it."""
        self.norms += norms
        self.means.append(mean.expand(len(norms), -1))
        self.variances.append(variance.expand(len(norms), -1))

    @torch.no_grad()
    def track(self) -> None:
        if not self.norms:
            return
        momentum = self.norms[0].momentum
        assert momentum is not None
        for name, parts in (("running_mean", self.means), ("running_var", self.variances)):
            _move(_buffers(self.norms, name), torch.cat(parts).unbind(), momentum)


def _move(running: list[Tensor], seen: tuple[Tensor, ...], momentum: float) -> None:
    """Each running statistic goes so much of the way to what was seen.

    That is a step of descent along (running - seen), for which torch has one operation for all tensors of a
    list: its `_foreach_lerp_` is an operation for each on a CPU.
    """
    torch._fused_sgd_(
        running,
        seen,
        [],
        weight_decay=1.0,
        momentum=0.0,
        lr=momentum,
        dampening=0.0,
        nesterov=False,
        maximize=True,
        is_first_step=True,
    )


def running_statistics(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """Means and variances (r, o) of evaluation mode."""
    return torch.stack(_buffers(norms, "running_mean")), torch.stack(_buffers(norms, "running_var"))


def _buffers(norms: Sequence[nn.BatchNorm2d], name: str) -> list[Tensor]:
    return [norm.get_buffer(name) for norm in norms]
