"""A trained network as a file, and back: weights, genotype, classes and preprocessing in one `model.pt`."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from nas_cli.architecture import Genotype, parse_genotype
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import RunError
from nas_cli.run import read_archive, write_atomically
from nas_cli.space import SearchSpace

FORMAT = 1
KEYS = {"format", "genotype", "images", "weights"}


class TrainedNetwork(nn.Module):
    """A retrained network with its classes: `forward` takes prepared images, `predict` raw pixels."""

    def __init__(self, network: nn.Module, genotype: Genotype, info: ImageInfo) -> None:
        super().__init__()
        self.network = network
        self.genotype = genotype
        self.info = info
        self.register_buffer("mean", torch.tensor(info.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(info.std).view(-1, 1, 1), persistent=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.info.class_names

    def preprocess(self, pixels: Tensor) -> Tensor:
        """From uint8 (images, channels, size, size) to what `forward` takes."""
        return (pixels.float() / 255 - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes) of preprocessed images."""
        return cast(Tensor, self.network(images))

    @torch.inference_mode()
    def predict(self, pixels: Tensor) -> Tensor:
        """Class probabilities (images, classes) of uint8 images."""
        return self.forward(self.preprocess(pixels)).softmax(1)


def save_model(
    path: Path, trained: nn.Module, published: nn.Module, genotype: Genotype, info: ImageInfo
) -> None:
    """Write the weights of the `published` layers alone: an auxiliary head serves training only."""
    trained_state = trained.state_dict()
    weights = {name: trained_state[name].cpu() for name in published.state_dict()}
    content = {
        "format": FORMAT,
        "genotype": genotype.to_json(),
        "images": json.dumps(info.to_json()),
        "weights": weights,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_model(path: Path) -> TrainedNetwork:
    """Read the model of a retrain folder or a `model.pt`. Raises RunError where there is none."""
    file = path / "model.pt" if path.is_dir() else path
    if not file.exists():
        raise RunError(f"{file}: there is no such model. A finished `nas retrain` leaves one.")
    content = read_archive(file)
    if content is None or content.keys() != KEYS:
        raise RunError(f"{file} is damaged or no model of `nas retrain`. Run that command again.")
    if content["format"] != FORMAT:
        raise RunError(
            f"{file} has format {content['format']}; this version of `nas` reads format {FORMAT}. "
            "Load it with the version that wrote it."
        )
    info = ImageInfo.from_json(json.loads(cast(str, content["images"])))
    genotype = parse_genotype(cast(str, content["genotype"]), str(file))
    space = build(SearchSpace, OmegaConf.create(dict(genotype.space)), info)
    network = space.build(space.architecture_of(genotype.choices))
    network.load_state_dict(cast(Mapping[str, Tensor], content["weights"]))
    return TrainedNetwork(network, genotype, info).eval()
