"""`nas profile`: what a network costs, before it is trained."""

import json

from omegaconf import DictConfig

from nas_cli.architecture import read_genotype
from nas_cli.commands.setup import architecture_of, cost_rows, published_cost
from nas_cli.config import build
from nas_cli.data import Dataset
from nas_cli.progress import print_table
from nas_cli.space import SearchSpace


def run(config: DictConfig, *, as_json: bool = False) -> None:
    """Print parameters and multiply-adds of a genotype's network, at the size and classes of the config."""
    info = build(Dataset, config.dataset).describe()
    space = build(SearchSpace, config.space, info)
    architecture = architecture_of(read_genotype(config.genotype), space)
    cost = published_cost(space, architecture, info)
    if as_json:
        figures = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        print(json.dumps(figures))  # noqa: T201
        return
    print_table(
        "profile",
        {
            "genotype": space.spell(architecture),
            "images": f"{info.channels} x {info.size} x {info.size}, {info.num_classes} classes",
            **cost_rows(cost),
        },
    )
