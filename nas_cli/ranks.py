"""The processes (ranks) that train one network together, each on its part of every batch.

All of them do the same with the same streams of random numbers, and average what they learn from their
images, so that they stay alike to the last bit. Alone, every function here is the identity.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

from nas_cli.errors import TrainingError

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others, which may test, decode images or write a checkpoint."""


def size() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one; the first writes the run folder."""
    return distributed.get_rank() if size() > 1 else 0


def local_size() -> int:
    """How many there are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if size() > 1 else 1


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Meet the others, as the environment variables of torch's launcher say; part at the end.

    Numbers on GPUs go over NCCL, those on the host over Gloo.
    """
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(local)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def average(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The means over all ranks of tensors of one type and device, in one exchange."""
    return tensors if size() == 1 else [total / size() for total in _totals(tensors)]


def total(tensor: Tensor) -> Tensor:
    """The sum over all ranks."""
    return tensor if size() == 1 else _totals([tensor])[0]


def gather(tensor: Tensor) -> Tensor:
    """That of each rank, stacked: (ranks, ...)."""
    if size() == 1:
        return tensor.unsqueeze(0)
    found = [torch.empty_like(tensor) for _ in range(size())]
    with _together():
        distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrite them with those of the first rank."""
    if size() > 1:
        with _together():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


def greatest(value: int) -> int:
    """The greatest value that a rank gave."""
    return value if size() == 1 else int(gather(_on_host(value)).max())


def wait_for_all() -> None:
    """Return when every rank is here."""
    greatest(0)


@contextmanager
def one_before_others() -> Iterator[None]:
    """The first rank of each machine does what is inside, such as filling a cache; then the others."""
    is_first = size() == 1 or os.environ["LOCAL_RANK"] == "0"
    if not is_first:
        wait_for_all()
    try:
        yield
    finally:
        if is_first:
            wait_for_all()


def check_same(figures: Mapping[str, object], where: str) -> None:
    """Raise TrainingError unless all ranks give the same plain values."""
    if size() == 1:
        return
    text = json.dumps(figures, sort_keys=True, default=str)
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
    if len(set(gather(_on_host(digest)).tolist())) > 1:
        raise TrainingError(
            f"The processes of this training no longer agree at {where}: their architectures or their "
            "losses differ, so the devices do not compute alike. What was saved before is kept. Use devices "
            "of one kind, or trainer.devices=1."
        )


def _on_host(value: int) -> Tensor:
    return torch.tensor(value)


def _totals(tensors: Sequence[Tensor]) -> list[Tensor]:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _together():
        distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@contextmanager
def _together() -> Iterator[None]:
    """A rank that dies leaves the others waiting, until its connections close."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"Another process of this training died or cannot be reached ({_first_line(error)}). What was "
            "saved before is kept: continue with --resume."
        ) from error


def _first_line(error: RuntimeError) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
