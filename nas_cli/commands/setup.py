"""What several commands build from a config, and what several read from a genotype."""

import json
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf

from nas_cli import ranks
from nas_cli.architecture import Architecture, Genotype, GenotypeText, Json
from nas_cli.budget import Affordable, Budget
from nas_cli.config import build
from nas_cli.cost import Cost, cost_of
from nas_cli.data import Dataset, ImageData, ImageInfo
from nas_cli.drawing import png_of, svg_of
from nas_cli.errors import ConfigError
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.space import SearchSpace
from nas_cli.strategy import Problem
from nas_cli.supernet import SupernetOptions
from nas_cli.timing import Conditions
from nas_cli.tracker import Tracker
from nas_cli.trainer import Trainer


def plain(config: DictConfig) -> dict[str, Json]:
    return cast(dict[str, Json], OmegaConf.to_container(config, resolve=True))


def load_images(config: DictConfig, trainer: Trainer) -> ImageData:
    """The data set in memory, on the device that trains on it; the jobs of a sweep share it."""
    with ranks.one_before_others():
        return _load(json.dumps(plain(config.dataset)), Path.cwd(), trainer.device)


@lru_cache(maxsize=1)
def _load(dataset: str, where: Path, device: torch.device) -> ImageData:
    """`where` is what a relative path starts from: the same settings name other images there."""
    return build(Dataset, OmegaConf.create(json.loads(dataset))).load().to(device)


def make_tracker(config: DictConfig) -> Tracker | None:
    """None for `tracker=none`. Raises ConfigError where its package is not installed."""
    return build(Tracker, config.tracker) if config.tracker else None


def make_problem(config: DictConfig) -> Problem:
    trainer = build(Trainer, config.trainer)
    data = load_images(config, trainer)
    space = build(SearchSpace, config.space, data.info)
    return Problem(
        space=space,
        data=data,
        recipe=build(Recipe, config.recipe),
        trainer=trainer,
        supernet=build(SupernetOptions, config.supernet),
        seed=config.seed,
        affordable=Affordable.of(build(Budget, config.budget), space, data.info),
    )


def conditions_of(config: DictConfig) -> Conditions:
    """Where latencies are measured. Raises ConfigError for settings of the trainer that are not measured."""
    trainer = build(Trainer, config.trainer)
    if trainer.precision != "fp32" or trainer.memory_format != torch.channels_last:
        raise ConfigError(
            f"trainer.precision={config.trainer.precision} trainer.memory_format="
            f"{config.trainer.memory_format}: latency is measured with trainer.precision=fp32 and "
            "trainer.memory_format=channels_last. Leave them out."
        )
    return Conditions.here(trainer.device.type, config.threads, config.batch_size)


def architecture_of(genotype: Genotype | GenotypeText, space: SearchSpace) -> Architecture:
    if isinstance(genotype, GenotypeText):
        return space.parse(genotype)
    return space.architecture_of(genotype.choices)


def published_cost(space: SearchSpace, architecture: Architecture, info: ImageInfo) -> Cost:
    """What the network costs as published, without an auxiliary head; nothing is computed."""
    with torch.device("meta"):
        return cost_of(space.build(architecture), info)


def cost_rows(cost: Cost) -> dict[str, str]:
    return {"parameters": f"{cost.parameters:,}", "multiply-adds": f"{cost.multiply_adds:,}"}


def found_by_of(genotype: Genotype | GenotypeText) -> dict[str, Json]:
    """Who found it; a paper's text form does not say."""
    return dict(genotype.found_by) if isinstance(genotype, Genotype) else {}


def write_drawing(run: Run, name: str, space: SearchSpace, architecture: Architecture) -> Path:
    """The cells as `<name>.svg` and `<name>.png`."""
    cells = space.cells(architecture)
    run.write_text(f"{name}.svg", svg_of(cells))
    run.write_bytes(f"{name}.png", png_of(cells))
    return run.path(f"{name}.svg")


def make_genotype(
    run: Run, space: SearchSpace, architecture: Architecture, found_by: dict[str, Json]
) -> Genotype:
    """The file form, with the config nodes of the run that it came from."""
    return Genotype(
        space=run.settings("space"),
        choices=space.options_of(architecture),
        dataset=run.settings("dataset"),
        found_by=found_by,
    )
