"""A part of a supernet that is computed again in the backward pass, instead of keeping what it computed."""

from collections.abc import Callable
from itertools import count
from typing import cast

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def step_of(part: nn.Module, *, checkpointed: bool) -> Callable[..., object]:
    """What the part computes; `checkpointed`: of its forward pass only arguments and results are kept.

    The second time it computes with the same weights, which `functional_call` may have put there for the
    first time alone, and on copies of its batch statistics: those are of one pass, not of two.
    """
    return _Checkpointed(part) if checkpointed else part


class _Checkpointed:
    """No module: the names of a supernet's weights are the same with it and without."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part

    def __call__(self, *arguments: object, **named: object) -> object:
        if not torch.is_grad_enabled():
            return self.part(*arguments, **named)
        part, weights, calls = self.part, dict(self.part.named_parameters()), count()

        def compute(*arguments: object, **named: object) -> object:
            if next(calls) == 0:
                return part(*arguments, **named)
            statistics = {name: buffer.clone() for name, buffer in part.named_buffers()}
            return functional_call(part, {**weights, **statistics}, arguments, named)

        # Nothing in a supernet draws from torch's global generator.
        return cast(
            object,
            checkpoint(  # type: ignore[call-overload]
                compute, *arguments, use_reentrant=False, preserve_rng_state=False, **named
            ),
        )
