"""Augmentation of whole batches on their device: a random crop, a mirror image, a cut-out square."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What training does to a batch. `shift` and `cutout` are in pixels, 0 for none.

    `shift`: a random crop after zero padding by so many pixels. `mirror`: half of the images, by chance,
    are mirrored left to right; whoever sets it asks `ImageInfo.mirror` first. `cutout`: the side of a
    square that is set to the mean colour, its centre anywhere in the image (arXiv:1708.04552).
    """

    shift: int = 0
    mirror: bool = False
    cutout: int = 0

    def draw(self, num_images: int, size: int, generator: torch.Generator) -> Tensor:
        """The random numbers of one batch: int64 (5, images) on the CPU.

        They are the top and left of the crop, whether mirrored, the row and column of the square. All five
        are always drawn, so that switching one augmentation on leaves the others as they were.
        """
        corner = torch.randint(0, 2 * self.shift + 1, (2, num_images), generator=generator)
        mirrored = torch.randint(0, 2, (1, num_images), generator=generator)
        centre = torch.randint(0, size, (2, num_images), generator=generator)
        return torch.cat((corner, mirrored, centre))

    def apply(self, pixels: Tensor, scale: Tensor, offset: Tensor, draws: Tensor) -> Tensor:
        """Augment pixels (B, C, S, S) uint8 and normalise them: `pixels * scale + offset`, float32.

        `draws`, what `draw` gave for these images, is on the CPU whatever the device is: the same batch on
        every device. It is small, and copied over without waiting for the device.
        """
        if self == NO_AUGMENTATION:
            return pixels.float().mul_(scale).add_(offset)
        top, left, mirrored, row, column = onto(draws, pixels.device).unbind()
        if self.shift or self.mirror:
            pixels = self._crop(pixels, top, left, mirrored)
        images = pixels.float().mul_(scale).add_(offset)
        return images.mul_(self._kept(images, row, column)) if self.cutout else images

    def _crop(self, pixels: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """Crop and mirror with one gather: 2.5 times as fast as a crop and a flip one after the other."""
        num_images, channels, size, _ = pixels.shape
        padded = F.pad(pixels, (self.shift,) * 4).flatten(2)
        place = torch.arange(size, device=pixels.device)
        rows = top[:, None] + place
        is_mirrored = (mirrored if self.mirror else torch.zeros_like(mirrored)).bool()
        columns = left[:, None] + torch.where(is_mirrored[:, None], size - 1 - place, place)
        cells = rows[:, :, None] * (size + 2 * self.shift) + columns[:, None, :]
        return padded.gather(2, cells.view(num_images, 1, -1).expand(-1, channels, -1)).view_as(pixels)

    def _kept(self, images: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Zero inside the squares, one outside: (B, 1, S, S). Normalised images have mean zero."""
        place = torch.arange(images.shape[-1], device=images.device)
        first_row, first_column = row[:, None] - self.cutout // 2, column[:, None] - self.cutout // 2
        in_rows = (place >= first_row) & (place < first_row + self.cutout)
        in_columns = (place >= first_column) & (place < first_column + self.cutout)
        return (~(in_rows[:, None, :, None] & in_columns[:, None, None, :])).to(images.dtype)


NO_AUGMENTATION = Augmentation()


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device; to a GPU from pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
