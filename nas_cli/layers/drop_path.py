"""Drop path: a whole edge is dropped for some images of a batch (arXiv:1605.07648)."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zero a share `rate` of the images and scale the others by 1 / (1 - rate)."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep, generator=self.generator)
        return x * mask.div_(keep)


def set_drop_path(network: nn.Module, rate: float, generator: torch.Generator | None) -> int:
    """Set the rate and the stream of random numbers of every DropPath; returns how many there are."""
    drop_paths = [module for module in network.modules() if isinstance(module, DropPath)]
    for drop_path in drop_paths:
        drop_path.rate = rate
        drop_path.generator = generator
    return len(drop_paths)


def leave_uncompiled() -> None:
    """Keep torch.compile off it: its rate changes at every step, and it draws from a stream of its own."""
    DropPath.forward = torch.compiler.disable(DropPath.forward)  # type: ignore[method-assign]
