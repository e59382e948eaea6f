"""A trained network as a file, and back: weights, genotype, classes and preprocessing in one `model.pt`."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Genotype, parse_genotype
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import GenotypeError, RunError
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
    """Read the model of a run folder or a `model.pt`. Raises RunError where there is none."""
    content = _read(path)
    info, genotype = content.info, content.genotype
    space = build(SearchSpace, OmegaConf.create(dict(genotype.space)), info)
    network = space.build(space.architecture_of(genotype.choices))
    network.load_state_dict(content.weights)
    return TrainedNetwork(network, genotype, info).eval()


def load_weights(network: nn.Module, path: Path, space: SearchSpace, architecture: Architecture) -> None:
    """Begin with the weights of a model of the same genotype; an auxiliary head of the network keeps its own.

    Raises RunError naming what differs.
    """
    content = _read(path)
    try:
        theirs = space.canonical(space.architecture_of(content.genotype.choices))
    except GenotypeError as error:
        raise RunError(f"weights={path} are of another search space. {error}") from error
    if theirs != space.canonical(architecture):
        raise RunError(
            f"weights={path} are of another genotype: {space.spell(theirs)}, where this network is "
            f"{space.spell(architecture)}. Give the genotype.json that was written with them."
        )
    with torch.device("meta"):
        published = space.build(architecture)
    _check_shapes(path, content.weights, shapes_of(published))
    network.load_state_dict(content.weights, strict=False)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all weights and statistics."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _check_shapes(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in [*wanted, *given]:
        if given.get(name) != wanted.get(name):
            raise RunError(
                f"weights={path} do not fit: {name} has the shape {given.get(name, 'of nothing')} there and "
                f"{wanted.get(name, 'of nothing')} in this network. Leave out the space.* settings that make "
                "it another one, and give the data set that it was trained on."
            )


class _Content(NamedTuple):
    """What a model file holds."""

    genotype: Genotype
    info: ImageInfo
    weights: Mapping[str, Tensor]


def _read(path: Path) -> _Content:
    file = path / "model.pt" if path.is_dir() else path
    if not file.exists():
        raise RunError(
            f"{file}: there is no such model. A finished `nas retrain` leaves one; so does `nas derive` of a "
            "search with shared weights in space=mobilenet or space=macro."
        )
    content = read_archive(file)
    if content is None or content.keys() != KEYS:
        raise RunError(
            f"{file} is damaged or no model of `nas retrain` or `nas derive`. Run that command again."
        )
    if content["format"] != FORMAT:
        raise RunError(
            f"{file} has format {content['format']}; this version of `nas` reads format {FORMAT}. "
            "Load it with the version that wrote it."
        )
    return _Content(
        genotype=parse_genotype(cast(str, content["genotype"]), str(file)),
        info=ImageInfo.from_json(json.loads(cast(str, content["images"]))),
        weights=cast(Mapping[str, Tensor], content["weights"]),
    )
