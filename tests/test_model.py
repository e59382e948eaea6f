"""A trained network as a file, and back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nas_cli
from nas_cli.architecture import Architecture, Genotype
from nas_cli.data import ImageData, ImageInfo
from nas_cli.errors import RunError
from nas_cli.model import save_model
from nas_cli.network_training import NetworkTraining
from nas_cli.recipe import Recipe
from nas_cli.spaces.darts import DartsSpace
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs
from tests.toy import INFO, toy_images

SPACE = {"_target_": "nas_cli.spaces.darts.DartsSpace", "num_cells": 3, "channels": 2, "num_nodes": 1}
CELL = Architecture((0, 3, 4, 0, 1, 2))


def prepared(data: ImageData, info: ImageInfo) -> Tensor:
    pixels, _ = data.test.read(torch.arange(16))
    return (pixels / 255 - info.mean[0]) / info.std[0]


def train_and_save(folder: Path) -> nn.Module:
    """A network trained for two steps with an auxiliary head, in evaluation mode; saved in the folder."""
    space, data = DartsSpace(INFO, num_cells=3, channels=2, num_nodes=1), toy_images()
    recipe = Recipe(epochs=1, steps_per_epoch=2, batch_size=16, auxiliary_weight=0.4)
    training = NetworkTraining(
        space.build(CELL, auxiliary_head=True), data.train, INFO, recipe=recipe, trainer=Trainer(), seed=0
    )
    run_epochs(training)
    genotype = Genotype(SPACE, space.options_of(CELL))  # type: ignore[arg-type]
    save_model(folder / "model.pt", training.trained, space.build(CELL), genotype, INFO)
    return training.trained.cpu().eval()


@pytest.fixture(scope="module", name="trained")
def trained_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("retrained")
    return folder, train_and_save(folder)


def test_a_loaded_network_knows_its_classes_and_its_cell(trained: tuple[Path, nn.Module]) -> None:
    loaded = nas_cli.load(trained[0])
    assert loaded.class_names == ("dark", "bright")
    assert loaded.genotype.space == SPACE
    assert not loaded.training


def test_raw_pixels_are_prepared_as_in_training(trained: tuple[Path, nn.Module]) -> None:
    data = toy_images()
    pixels, _ = data.test.read(torch.arange(16))
    torch.testing.assert_close(nas_cli.load(trained[0]).preprocess(pixels), prepared(data, INFO))


def test_a_loaded_network_gives_the_logits_of_the_trained_one(trained: tuple[Path, nn.Module]) -> None:
    folder, network = trained
    images = prepared(toy_images(), INFO)
    for path in (folder, folder / "model.pt"):
        torch.testing.assert_close(nas_cli.load(path)(images), network(images))


def test_predictions_are_probabilities(trained: tuple[Path, nn.Module]) -> None:
    pixels, _ = toy_images().test.read(torch.arange(16))
    predictions = nas_cli.load(str(trained[0])).predict(pixels)
    assert predictions.shape == (16, 2)
    torch.testing.assert_close(predictions.sum(1), torch.ones(16))


def test_the_auxiliary_head_is_not_in_the_file(trained: tuple[Path, nn.Module]) -> None:
    folder, network = trained
    assert any(name.startswith("auxiliary_head") for name in network.state_dict())
    weights = torch.load(folder / "model.pt", weights_only=True)["weights"]
    assert not any(name.startswith("auxiliary_head") for name in weights)


def test_a_missing_model_is_told_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="A finished `nas retrain` leaves one"):
        nas_cli.load(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped bit", "another file"])
def test_a_damaged_model_is_refused(trained: tuple[Path, nn.Module], tmp_path: Path, damage: str) -> None:
    whole = (trained[0] / "model.pt").read_bytes()
    middle = whole.index(b"data/0") + 200
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    contents = {"empty": b"", "cut": whole[:-100], "flipped bit": flipped, "another file": b"no model"}
    (tmp_path / "model.pt").write_bytes(contents[damage])
    with pytest.raises(RunError, match="damaged or no model"):
        nas_cli.load(tmp_path)


def test_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    torch.save({"format": 1, "fingerprint": "", "state": {}}, tmp_path / "model.pt")
    with pytest.raises(RunError, match="no model of `nas retrain`"):
        nas_cli.load(tmp_path)


def test_a_model_of_a_later_format_is_refused(trained: tuple[Path, nn.Module], tmp_path: Path) -> None:
    content = torch.load(trained[0] / "model.pt", weights_only=True)
    torch.save({**content, "format": 2}, tmp_path / "model.pt")
    with pytest.raises(RunError, match="has format 2; this version of `nas` reads format 1"):
        nas_cli.load(tmp_path)
