"""The sub-networks of a search with shared weights as files, with the weights that it trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from omegaconf import OmegaConf

from nas_cli.architecture import Architecture, Genotype
from nas_cli.commands.setup import load_images
from nas_cli.config import build
from nas_cli.errors import NasError
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.model import save_model, shapes_of
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.space import SearchSpace
from nas_cli.strategy import Problem
from nas_cli.supernet import Form, SupernetOptions
from nas_cli.trainer import Trainer


def trained_supernet(search: Run, space: SearchSpace, run: Run) -> SharedWeights | None:
    """What `save_sub_network` takes networks from; None where the search leaves none that is as published.

    The search's images are needed for batch statistics: where they are gone, the log of `run` says so.
    """
    try:
        options = _supernet_options(search)
        if options is None or not _cuts_out_published(space, options):
            return None
        return SharedWeights(_problem_of(search, space), run=str(search.folder))
    except NasError as error:
        run.log.warning(f"No model.pt is written. {error}")
        return None


def save_sub_network(
    path: Path, trained: SharedWeights, architecture: Architecture, genotype: Genotype
) -> None:
    """Leave the network as a model file, with which `nas retrain weights=FILE` can begin."""
    problem = trained.problem
    with torch.device("meta"):
        published = problem.space.build(architecture)
    save_model(path, trained.network(architecture), published, genotype, problem.data.info)


def _supernet_options(search: Run) -> SupernetOptions | None:
    work = (search.load_checkpoint() or {}).get("work")
    if not isinstance(work, Mapping) or "supernet_options" not in work:
        return None
    saved = cast(Mapping[str, object], work["supernet_options"])
    return SupernetOptions(cast(int, saved["partial_channels"]), cast(Form | None, saved["form"]))


def _cuts_out_published(space: SearchSpace, options: SupernetOptions) -> bool:
    """Whether sub-networks of every option have the weights of the network that `nas retrain` builds.

    DARTS' have not: its search network normalises without scales, and after pooling too.
    """
    sizes = [len(choice.options) for choice in space.choices]
    with torch.device("meta"):
        supernet = space.build_supernet(options)
        return all(
            shapes_of(supernet.cut_out(architecture)) == shapes_of(space.build(architecture))
            for k in range(max(sizes))
            for architecture in [Architecture(tuple(k % size for size in sizes))]
        )


def _problem_of(search: Run, space: SearchSpace) -> Problem:
    """The search's own, on whatever device is here."""
    config = OmegaConf.create(search.config)
    config.trainer.device = "auto"
    trainer = build(Trainer, config.trainer)
    return Problem(
        space=space,
        data=load_images(config, trainer),
        recipe=build(Recipe, config.recipe),
        trainer=trainer,
        supernet=build(SupernetOptions, config.supernet),
        seed=config.seed,
    )
