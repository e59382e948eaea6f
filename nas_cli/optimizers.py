"""torch's own optimizers, without the import of its compiler at their first use.

What torch.optim wraps around its methods asks the compiler to leave them alone, and imports it for that: a
second at the start of every command that trains. Nothing here compiles an optimizer's step, so what is
wrapped is called itself: the same operations in the same order.
"""

from inspect import unwrap

import torch
from torch import optim


class _Eager(optim.Optimizer):
    add_param_group = unwrap(optim.Optimizer.add_param_group)
    zero_grad = unwrap(optim.Optimizer.zero_grad)
    state_dict = unwrap(optim.Optimizer.state_dict)
    load_state_dict = unwrap(optim.Optimizer.load_state_dict)


class SGD(_Eager, optim.SGD):
    """`torch.optim.SGD`."""

    step = torch.no_grad()(unwrap(optim.SGD.step))


class Adam(_Eager, optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(unwrap(optim.Adam.step))
