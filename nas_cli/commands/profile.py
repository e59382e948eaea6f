"""`nas profile`: what a network costs, before it is trained."""

import json

import torch
from omegaconf import DictConfig

from nas_cli.architecture import read_genotype
from nas_cli.commands.setup import architecture_of
from nas_cli.config import build
from nas_cli.cost import cost_of
from nas_cli.data import Dataset
from nas_cli.progress import print_table
from nas_cli.space import SearchSpace


def run(config: DictConfig, *, as_json: bool = False) -> None:
    """Print parameters and multiply-adds of a genotype's network, at the size and classes of the config."""
    info = build(Dataset, config.dataset).describe()
    space = build(SearchSpace, config.space, info)
    architecture = architecture_of(read_genotype(config.genotype), space)
    with torch.device("meta"):
        cost = cost_of(space.build(architecture), info)
    if as_json:
        figures = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        print(json.dumps(figures))  # noqa: T201
        return
    print_table(
        "profile",
        {
            "genotype": space.spell(architecture),
            "images": f"{info.channels} x {info.size} x {info.size}, {info.num_classes} classes",
            "parameters": f"{cost.parameters:,}",
            "multiply-adds": f"{cost.multiply_adds:,}",
        },
    )
