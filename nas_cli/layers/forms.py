"""The forms of a state that its edges share."""

from functools import cached_property

import torch
from torch import Tensor

from nas_cli.layers.every_second import every
from nas_cli.layers.operations import odd_pixels
from nas_cli.layers.phases import split_phases
from nas_cli.layers.pointwise import images_of, pixels
from nas_cli.layers.statistics import Statistics


class Forms:
    """The forms of a state that its edges share, each computed when first asked for.

    `copies`: so many lie side by side where separable convolutions read them.
    """

    def __init__(self, state: Tensor, statistics: Statistics, copies: int = 1) -> None:
        self.state = state
        self.statistics = statistics
        self.copies = copies

    @staticmethod
    def of(state: Tensor, statistics: Statistics) -> "Forms":
        """In channels_last memory, and in full precision: batch statistics want that."""
        state = state if state.dtype == torch.float64 else state.float()
        return Forms(state.contiguous(memory_format=torch.channels_last), statistics)

    @cached_property
    def rectified(self) -> Tensor:
        return torch.relu(self.state)

    @cached_property
    def even(self) -> Tensor:
        return every(self.rectified, (0, 2, 2)).contiguous(memory_format=torch.channels_last)

    @cached_property
    def phases(self) -> Tensor:
        return split_phases(self.rectified)

    @cached_property
    def copied(self) -> Tensor:
        return self._copy(self.rectified)

    @cached_property
    def copied_phases(self) -> Tensor:
        return split_phases(self.copied)

    @cached_property
    def copied_even(self) -> Tensor:
        return self._copy(self.even)

    def _copy(self, images: Tensor) -> Tensor:
        """By a product: it and its gradient are faster than putting few channels side by side."""
        if self.copies == 1:
            return images
        once = torch.eye(images.shape[1], device=images.device, dtype=images.dtype)
        return images_of(pixels(images) @ once.repeat(1, self.copies), images)

    @cached_property
    def even_and_odd(self) -> Tensor:
        return torch.cat([self.even, odd_pixels(self.rectified)], dim=1)


def splits(state: Tensor) -> bool:
    return state.device.type == "cpu" and state.shape[2] % 2 == 0 and state.shape[3] % 2 == 0
