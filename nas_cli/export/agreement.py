"""Whether exported files compute what the network computes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_cli.data import Part
from nas_cli.errors import TrainingError
from nas_cli.model import TrainedNetwork
from nas_cli.seeds import stream

NUM_IMAGES = 64
BATCH = 256


@dataclass(frozen=True, slots=True)
class Agreement:
    """`difference`: the largest of any logit, as a share of the largest logit or of 1."""

    num_images: int
    difference: float

    @property
    def text(self) -> str:
        return f"{self.difference:.1e} at most, over {self.num_images} images"


@torch.inference_mode()
def compare(trained: TrainedNetwork, exported: Callable[[Tensor], Tensor], images: Tensor) -> Agreement:
    """All the images in one batch, and the first of them alone: the number of images is free."""
    expected = trained(images)
    found = exported(images)
    alone = exported(images[:1])
    scale = max(1.0, float(expected.abs().max()))
    apart = max(float((found - expected).abs().max()), float((alone - expected[:1]).abs().max()))
    return Agreement(len(images), apart / scale)


def sample_images(trained: TrainedNetwork, part: Part | None) -> Tensor:
    """Random images, and real ones where there are any, preprocessed."""
    info = trained.info
    shape = (NUM_IMAGES, info.channels, info.size, info.size)
    images = torch.randn(shape, generator=stream(0, "images to compare on"))
    if part is None:
        return images
    pixels, _ = part.read(torch.arange(min(NUM_IMAGES, len(part))))
    return torch.cat((images, trained.preprocess(pixels)))


def refuse(agreement: Agreement, tolerance: float) -> None:
    """Raises TrainingError where a difference is more than rounding."""
    if not agreement.difference <= tolerance:
        raise TrainingError(
            "The exported files compute something else than the network: logits differ by "
            f"{agreement.text}, where {tolerance:.0e} is rounding. Export another format, and report this."
        )


@torch.inference_mode()
def accuracy_of(network: Callable[[Tensor], Tensor], trained: TrainedNetwork, part: Part) -> float:
    """The share of the part's images that `network` gets right, in percent."""
    correct = 0
    for indices in torch.arange(len(part)).split(BATCH):
        pixels, labels = part.read(indices)
        correct += int((network(trained.preprocess(pixels)).argmax(1) == labels).sum())
    return 100.0 * correct / len(part)
