"""How much memory the tensors of some work take at their most, measured while it is done once."""

import weakref
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

MEBIBYTE = 2**20


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that `work` holds at a time, of those that it makes itself.

    What a kernel needs for itself is in it on a GPU alone.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    living = _Living()
    with living:
        work()
    return living.peak


def bytes_of(*modules: nn.Module) -> int:
    """Parameters and buffers."""
    tensors = {
        id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensor.nbytes for tensor in tensors.values())


class _Living(TorchDispatchMode):
    """Counts the storage of every new tensor until nobody refers to it any more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **kwargs or {})
        if not _returns_an_argument(func):
            for tensor in _tensors(result):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += self.sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@cache
def _returns_an_argument(operation: torch._ops.OpOverload) -> bool:
    """Views, and what works in place, make no storage."""
    return any(returned.alias_info is not None for returned in operation._schema.returns)


def _tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [item for item in result if isinstance(item, Tensor)] if isinstance(result, list | tuple) else []
