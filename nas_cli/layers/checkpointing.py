"""A part of a supernet that is computed again in the backward pass, instead of keeping what it computed."""

from itertools import count

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def step_of(part: nn.Module, *, checkpointed: bool) -> nn.Module:
    """What computes the part; `checkpointed`: of its forward pass only arguments and results are kept."""
    return _Checkpointed(part) if checkpointed else part


class _Checkpointed(nn.Module):
    """Made for one forward pass; it has no weights of its own.

    The second time the part computes with the weights of the first, which `functional_call` may have put
    there for that pass alone, and on copies of its batch statistics: a batch is counted once.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.unregistered = (part,)

    def forward(self, *arguments: object, **named: object) -> object:
        (part,) = self.unregistered
        if not torch.is_grad_enabled():
            return part(*arguments, **named)
        weights, calls = dict(part.named_parameters()), count()

        def compute(*arguments: object) -> object:
            if next(calls) == 0:
                return part(*arguments, **named)
            statistics = {name: buffer.clone() for name, buffer in part.named_buffers()}
            return functional_call(part, {**weights, **statistics}, arguments, named)

        # Nothing in a supernet draws from torch's global generator.
        return checkpoint(compute, *arguments, use_reentrant=False, preserve_rng_state=False)
