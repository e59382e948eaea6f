"""A state of thousands of small tensors as a few large ones, which are written in a fraction of the time."""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

TENSOR = "tensor"
"""Where a tensor was there is {TENSOR: its number}."""
PLAIN = (type(None), bool, int, float, str, bytes)


class Packing:
    """Takes the tensors out of a tree of mappings, lists and plain values.

    Raises TypeError for anything else, so that a checkpoint that cannot be loaded again fails while the run
    that made it still lives.
    """

    def __init__(self) -> None:
        self.pieces: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
        self.layout: list[int] = []
        self.num_tensors = 0

    @staticmethod
    def of(tree: Mapping[str, object]) -> dict[str, object]:
        packing = Packing()
        plain = packing.take(tree, "state")
        return {
            "tree": plain,
            "layout": torch.tensor(packing.layout, dtype=torch.int64),
            "values": [torch.cat(pieces).cpu() for pieces in packing.pieces.values()],
        }

    def take(self, value: object, where: str) -> object:
        """The same with numbers in place of tensors. `where` it is, for the message."""
        if isinstance(value, Tensor):
            return {TENSOR: self._put(value.detach())}
        if isinstance(value, Mapping):
            if value.keys() == {TENSOR}:
                raise TypeError(f"{where}: the name {TENSOR!r} alone stands for a tensor")
            return {key: self.take(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self.take(item, f"{where}[{index}]") for index, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if type(value) not in PLAIN:
            raise TypeError(f"{where} is of {type(value)}; a checkpoint holds tensors and plain values only")
        return value

    def _put(self, tensor: Tensor) -> int:
        """Notes the values as they lie in memory, and group, memory format, number of axes and shape."""
        group = tensor.dtype, tensor.device
        last = _is_channels_last(tensor)
        self.pieces[group].append((tensor.permute(0, 2, 3, 1) if last else tensor).flatten())
        self.layout += [[*self.pieces].index(group), last, tensor.dim(), *tensor.shape]
        self.num_tensors += 1
        return self.num_tensors - 1


def unpack(packed: Mapping[str, object]) -> object:
    """The tree that was packed, on the CPU; each tensor has memory of its own, in the layout it had."""
    layout, values = packed["layout"], packed["values"]
    assert isinstance(layout, Tensor)
    assert isinstance(values, list)
    return _put_back(packed["tree"], _tensors(layout.tolist(), values))


def _tensors(layout: list[int], values: list[Tensor]) -> list[Tensor]:
    tensors, starts, place = [], [0] * len(values), 0
    while place < len(layout):
        group, last, axes = layout[place : place + 3]
        shape = layout[place + 3 : place + 3 + axes]
        start, place = starts[group], place + 3 + axes
        starts[group] += math.prod(shape)
        piece = values[group][start : starts[group]].clone()
        if last:
            images, channels, height, width = shape
            tensors.append(piece.view(images, height, width, channels).permute(0, 3, 1, 2))
        else:
            tensors.append(piece.view(shape))
    return tensors


def _put_back(value: object, tensors: list[Tensor]) -> object:
    if isinstance(value, Mapping):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _put_back(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_put_back(item, tensors) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
