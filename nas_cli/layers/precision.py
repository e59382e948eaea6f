"""What is computed in the precision it arrived in, and what autocast would make of it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def outside_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """On the device of the tensor; devices without autocast, as `meta`, are outside it already."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The type autocast casts a convolution's argument to: the tensor's own where it is off."""
    device = tensor.device.type
    if tensor.dtype == torch.float32 and _has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def in_autocast_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As autocast casts a convolution's arguments; it does not reach the backward pass of a Function."""
    device = tensors[0].device.type
    if _has_autocast(device) and torch.is_autocast_enabled(device):
        return tuple(tensor.to(autocast_dtype(tensor)) for tensor in tensors)
    return tensors


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)
