"""`nas retrain`: train a found network in full, test it once, and leave it as model.pt."""

from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig

from nas_cli.architecture import Genotype, Json, read_genotype
from nas_cli.commands.setup import architecture_of, load_images, plain, write_drawing
from nas_cli.config import build
from nas_cli.cost import Cost, cost_of
from nas_cli.drawing import curves_svg
from nas_cli.model import save_model
from nas_cli.progress import duration, print_table
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.trainer import Trainer
from nas_cli.training import NetworkTraining, accuracy, run_epochs


def run(config: DictConfig, folder: Path, *, resume: bool = False) -> None:
    """Retrain in a run folder; with `resume`, go on with the training that it holds."""
    kept = folder / "genotype.json"
    genotype = read_genotype(str(kept) if resume and kept.exists() else config.genotype)
    trainer, recipe = build(Trainer, config.trainer), build(Recipe, config.recipe)
    data = load_images(config, trainer)
    space = build(SearchSpace, config.space, data.info)
    architecture = architecture_of(genotype, space)
    with seeded(config.seed, "network"):
        network = space.build(architecture, auxiliary_head=recipe.auxiliary_weight > 0)
    training = NetworkTraining(
        network, data.train, data.info, recipe=recipe, trainer=trainer, seed=config.seed
    )
    run = Run.resume(folder, "retrain") if resume else Run.create(folder, "retrain", plain(config))
    with run:
        found_by = genotype.found_by if isinstance(genotype, Genotype) else {}
        rebuilt = Genotype(
            space=cast(dict[str, Json], run.config["space"]),
            choices=space.options_of(architecture),
            dataset=cast(dict[str, Json], run.config["dataset"]),
            found_by=found_by,
        )
        run.write_text("genotype.json", rebuilt.to_json())
        run_epochs(training, run, "retrain")
        test_accuracy = accuracy(training.trained, data.test, data.info, trainer, recipe.batch_size)
        with torch.device("meta"):
            published = space.build(architecture)
        cost = cost_of(published, data.info)
        save_model(run.path("model.pt"), training.trained, published, rebuilt, data.info)
        drawing = write_drawing(run, "genotype", space, architecture)
        run.write_text("curves.svg", curves_svg(run.metrics()))
        run.write_json("result.json", _result(run, test_accuracy, cost))
    rows = {"genotype": space.spell(architecture), **_cost_rows(cost)}
    if isinstance(proxy := found_by.get("score"), float):
        rows["proxy accuracy"] = f"{proxy:.2f} %"
    print_table(
        "retrain",
        rows
        | {
            "test accuracy": f"{test_accuracy:.2f} %",
            "time": duration(run.seconds),
            "drawing": str(drawing),
            "model": str(run.path("model.pt")),
        },
    )


def _result(run: Run, test_accuracy: float, cost: Cost) -> dict[str, Json]:
    return {
        "test_accuracy": test_accuracy,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "seconds": run.seconds,
    }


def _cost_rows(cost: Cost) -> dict[str, str]:
    return {"parameters": f"{cost.parameters:,}", "multiply-adds": f"{cost.multiply_adds:,}"}
