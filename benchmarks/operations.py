"""How many operations one pass takes, counted in four ways."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

# They compute nothing: views, and memory that is asked for
BOOKKEEPING = frozenset(
    f"aten::{name}"
    for name in (
        "alias",
        "as_strided",
        "as_strided_",
        "detach",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "expand",
        "flatten",
        "permute",
        "_reshape_alias",
        "reshape",
        "resize_",
        "resolve_conj",
        "result_type",
        "select",
        "slice",
        "split",
        "squeeze",
        "t",
        "to",
        "transpose",
        "unbind",
        "unsqueeze",
        "_unsafe_view",
        "view",
    )
)


@dataclass(frozen=True, slots=True)
class Leaves:
    """The profiler's events of torch's library that have none below them, and those of them that compute.

    Views count double among all, and a convolution, which asks for memory several times, is no leaf.
    """

    all: int
    computing: int


@dataclass(frozen=True, slots=True)
class Operations:
    """`dispatched`: what torch dispatches, below autograd; `views`: how many of them are views of memory."""

    dispatched: int
    views: int
    leaves: Leaves

    def __str__(self) -> str:
        return (
            f"{self.dispatched} dispatched, {self.dispatched - self.views} without views; "
            f"profiler: {self.leaves.all} leaves, {self.leaves.computing} of them compute"
        )


def count_operations(run: Callable[[], object]) -> Operations:
    counter = _Counter()
    with counter:
        run()
    return Operations(counter.count, counter.views, count_leaves(run))


def count_leaves(run: Callable[[], object]) -> Leaves:
    with profile(activities=[ProfilerActivity.CPU]) as record:
        run()
    names = [
        event.name
        for event in record.events()
        if event.name.startswith("aten::")
        and not any(child.name.startswith("aten::") for child in event.cpu_children)
    ]
    return Leaves(len(names), sum(name not in BOOKKEEPING for name in names))


def count_elsewhere(run: Callable[[], object]) -> int:
    """Dispatched operations that compute, where `run` works on the meta device: those of any but a CPU."""
    counter = _MetaCounter()
    with counter:
        run()
    return counter.computing


class _MetaCounter(TorchDispatchMode):
    computing: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.computing = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        name = "aten::" + function.overloadpacket.__name__
        self.computing += not function.is_view and name not in BOOKKEEPING
        if (
            name == "aten::_fused_sgd_"
        ):  # which moves running statistics: torch has no form of it for this device
            return None
        return function(*arguments, **(keywords or {}))


class _Counter(TorchDispatchMode):
    count: int
    views: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.views = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        self.count += 1
        self.views += function.is_view
        return function(*arguments, **(keywords or {}))
