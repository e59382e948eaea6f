"""What runs with what: which strategies can search which spaces, and why the others cannot."""

from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from nas_cli.catalogue import options
from nas_cli.config import build
from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.errors import NasError
from nas_cli.recipe import Recipe
from nas_cli.space import SearchSpace
from nas_cli.strategy import Problem, Strategy
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer

INFO = ImageInfo(channels=1, size=16, class_names=("a", "b"), mean=(0.5,), std=(0.25,), mirror=True)


def refusals(config_dir: Path | None = None) -> Mapping[str, Mapping[str, str | None]]:
    """{space: {strategy: why it refuses, or None where the pair runs}}, with the YAML files' settings."""
    spaces = {name: _space(file) for name, file in options("space", config_dir).items()}
    strategies = {name: OmegaConf.load(file) for name, file in options("strategy", config_dir).items()}
    return {
        space_name: {name: refusal(space, node) for name, node in strategies.items()}
        for space_name, space in spaces.items()
    }


def _space(file: Path) -> SearchSpace:
    return build(SearchSpace, _node(OmegaConf.load(file)), INFO)


def refusal(space: SearchSpace, strategy: object) -> str | None:
    """The sentence with which the strategy's constructor refuses the space."""
    try:
        build(Strategy, _node(strategy), _problem(space))
    except NasError as error:
        return str(error)
    return None


def _node(config: object) -> DictConfig:
    assert isinstance(config, DictConfig)
    return config


def _problem(space: SearchSpace) -> Problem:
    """A few grey images: constructing a strategy trains nothing."""
    images = Images(torch.zeros(8, 1, INFO.size, INFO.size, dtype=torch.uint8), torch.arange(8) % 2)
    return Problem(
        space=space,
        data=ImageData(INFO, images, images),
        recipe=Recipe(batch_size=2),
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=0,
    )
