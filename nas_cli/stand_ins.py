"""Functions of torch that others stand in for, inside a `with` block."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.overrides import TorchFunctionMode


class StandIns(TorchFunctionMode):
    """`functions`: {a function of torch: what is called in its place}."""

    def __init__(self, functions: Mapping[object, Callable[..., Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        result: Tensor = self.functions.get(func, func)(*args, **kwargs or {})
        return result
