"""Stems: from an image to the two states that the first cell reads. And how small an image may be."""

import math

from torch import Tensor, nn

from nas_cli.data import ImageInfo
from nas_cli.errors import UnsupportedError

LARGEST_SMALL_IMAGE = 64
SMALLEST_MAP = 2


def halved(size: int, times: int) -> int:
    """The size of a map after that many layers of stride 2; an odd size is rounded up."""
    return math.ceil(size / (1 << times))


def check_image_size(info: ImageInfo, num_reductions: int) -> None:
    """Raises UnsupportedError where the last maps would be smaller than 2x2: all around would be padding.

    A large image's stem is not counted: what it leaves is never too small for two or three reductions.
    """
    last = halved(info.size, num_reductions)
    if last < SMALLEST_MAP:
        smallest = (SMALLEST_MAP - 1) * 2**num_reductions + 1
        raise UnsupportedError(
            f"Images of {info.size}x{info.size} pixels are too small for this space: "
            f"its {num_reductions} reductions would leave maps of {last}x{last}, and 2x2 is the least. "
            f"Enlarge the images to {smallest}x{smallest} pixels or more."
        )


class SmallStem(nn.Module):
    """For images up to 64 pixels, DARTS' for CIFAR-10: one convolution, both states are its output."""

    shrinks = False

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, self.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.channels),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        state: Tensor = self.layers(images)
        return state, state


class LargeStem(nn.Module):
    """For larger images, as DARTS has it for ImageNet: a quarter and an eighth of the image's size."""

    shrinks = True

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.to_quarter = nn.Sequential(
            _strided(in_channels, channels // 2),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            _strided(channels // 2, channels),
            nn.BatchNorm2d(channels),
        )
        self.to_eighth = nn.Sequential(nn.ReLU(), _strided(channels, channels), nn.BatchNorm2d(channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter: Tensor = self.to_quarter(images)
        eighth: Tensor = self.to_eighth(quarter)
        return quarter, eighth


def _strided(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)


def make_stem(info: ImageInfo, channels: int) -> SmallStem | LargeStem:
    """The stem for these images. Both its states have `channels`; the first is larger if it `shrinks`."""
    stem = SmallStem if info.size <= LARGEST_SMALL_IMAGE else LargeStem
    return stem(info.channels, channels)


def size_after_stem(info: ImageInfo) -> int:
    return info.size if info.size <= LARGEST_SMALL_IMAGE else halved(info.size, 3)
