"""`nas retrain`: train a found network in full, test it once, and leave it as model.pt."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from nas_cli import preflight
from nas_cli.architecture import Architecture, Genotype, Json, read_genotype
from nas_cli.commands.setup import (
    architecture_of,
    cost_rows,
    found_by_of,
    load_images,
    make_genotype,
    make_tracker,
    plain,
    published_cost,
    write_drawing,
)
from nas_cli.config import build
from nas_cli.cost import Cost
from nas_cli.drawing import curves_svg
from nas_cli.model import load_weights, save_model
from nas_cli.network_training import NetworkTraining, accuracy
from nas_cli.progress import duration, print_table
from nas_cli.recipe import Recipe
from nas_cli.report import report_after
from nas_cli.run import Run
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs


def run(config: DictConfig, folder: Path, *, resume: bool = False) -> None:
    """Retrain in a run folder; with `resume`, go on with the training that it holds."""
    kept = folder / "genotype.json"
    genotype = read_genotype(str(kept) if resume and kept.exists() else config.genotype)
    trainer = build(Trainer, config.trainer, "retrain")
    data = load_images(config, trainer)
    space = build(SearchSpace, config.space, data.info)
    architecture = architecture_of(genotype, space)
    recipe = build(Recipe, config.recipe)
    network = _network(space, architecture, recipe, config.seed)
    if config.weights is not None and not (resume and any(folder.glob("checkpoint*.pt"))):
        load_weights(network, Path(config.weights), space, architecture)
    training = NetworkTraining(
        network, data.train, data.info, recipe=recipe, trainer=trainer, seed=config.seed
    )
    cost = published_cost(space, architecture, data.info)
    tracker = make_tracker(config)
    expectation = None
    if config.preflight and not resume:
        room = preflight.room_of(plain(config), trainer.device, folder)
        expectation = preflight.of_training(training, data.test, room)
    run = Run.resume(folder, "retrain") if resume else Run.create(folder, "retrain", plain(config))
    run.follow(tracker)
    with run:
        run.log.info(f"Trained on: {trainer}")
        preflight.tell(run, expectation)
        rebuilt = make_genotype(run, space, architecture, found_by_of(genotype))
        run.write_text("genotype.json", rebuilt.to_json())
        run_epochs(training, run, "retrain")
        test_accuracy = accuracy(training.trained, data.test, data.info, trainer, training.recipe.batch_size)
        with torch.device("meta"):
            published = space.build(architecture)
        save_model(run.path("model.pt"), training.trained, published, rebuilt, data.info)
        write_drawing(run, "genotype", space, architecture)
        run.write_text("curves.svg", curves_svg(run.metrics()))
        run.write_json("result.json", _result(run, test_accuracy, cost))
    report_after(folder)
    print_table("retrain", _rows(run, space.spell(architecture), rebuilt, test_accuracy, cost))


def _network(space: SearchSpace, architecture: Architecture, recipe: Recipe, seed: int) -> nn.Module:
    with seeded(seed, "network"):
        return space.build(architecture, auxiliary_head=recipe.auxiliary_weight > 0)


def _result(run: Run, test_accuracy: float, cost: Cost) -> dict[str, Json]:
    return {
        "test_accuracy": test_accuracy,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "seconds": run.seconds,
    }


def _rows(run: Run, spelling: str, genotype: Genotype, test_accuracy: float, cost: Cost) -> dict[str, str]:
    rows = {"genotype": spelling, **cost_rows(cost)}
    if isinstance(proxy := genotype.found_by.get("score"), float):
        rows["proxy accuracy"] = f"{proxy:.2f} %"
    return rows | {
        "test accuracy": f"{test_accuracy:.2f} %",
        "time": duration(run.seconds),
        "drawing": str(run.path("genotype.svg")),
        "model": str(run.path("model.pt")),
        "report": str(run.path("report.html")),
    }
