"""Every format computes what the network computes, for every space, without this program."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nas_cli.architecture import Genotype
from nas_cli.catalogue import options
from nas_cli.cli import main
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.errors import TrainingError
from nas_cli.export import FORMATS
from nas_cli.export.agreement import Agreement, compare, refuse, sample_images
from nas_cli.model import TrainedNetwork, save_model
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace

INFO = ImageInfo(3, 15, ("cat", 'the "dog"', "cow\nor pig"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), mirror=True)


def trained_of(space_name: str) -> TrainedNetwork:
    """A sampled network whose statistics and scales are not those of a new one; images of an odd size."""
    node = OmegaConf.load(options("space")[space_name])
    space = build(SearchSpace, node, INFO)  # type: ignore[arg-type]
    architecture = space.sample(random.Random(0))
    with seeded(0, "network"):
        network = space.build(architecture)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    genotype = Genotype(OmegaConf.to_container(node), space.options_of(architecture))  # type: ignore[arg-type]
    return TrainedNetwork(network, genotype, INFO).eval()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("space_name", options("space"))
def test_the_files_compute_what_the_network_computes(space_name: str, name: str, tmp_path: Path) -> None:
    if name == "onnx" and space_name != "darts":
        pytest.skip("torch's exporter takes seconds; the slow test does every space")
    trained = trained_of(space_name)
    run = FORMATS[name].write(trained, tmp_path)
    agreement = compare(trained, run, sample_images(trained, None))
    assert agreement.num_images == 64
    assert agreement.difference < FORMATS[name].tolerance
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(FORMATS[name].files)


@pytest.mark.slow
@pytest.mark.parametrize("space_name", options("space"))
def test_onnx_computes_every_space(space_name: str, tmp_path: Path) -> None:
    trained = trained_of(space_name)
    run = FORMATS["onnx"].write(trained, tmp_path)
    assert compare(trained, run, sample_images(trained, None)).difference < 1e-4


LOADERS = {
    "torch_export": "import torch; run = torch.export.load('network.pt2').module()",
    "python": "import torch, network; run = network.load(); assert network.CLASS_NAMES[2] == 'cow\\nor pig'",
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_files_need_torch_alone(name: str, tmp_path: Path) -> None:
    trained = trained_of("mobilenet")
    FORMATS[name].write(trained, tmp_path)
    images = sample_images(trained, None)[:3]
    torch.save((images, trained(images).detach()), tmp_path / "expected.pt")
    script = (
        f"import sys; sys.modules['nas_cli'] = None\n{LOADERS[name]}\n"
        "images, logits = torch.load('expected.pt')\n"
        "torch.testing.assert_close(run(images), logits, rtol=1e-5, atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_a_difference_beyond_rounding_is_refused() -> None:
    refuse(Agreement(64, 9e-7), 1e-6, "python")
    with pytest.raises(TrainingError, match="computes something else than the network"):
        refuse(Agreement(64, 2e-6), 1e-6, "python")
    with pytest.raises(TrainingError, match="computes something else"):
        refuse(Agreement(64, float("nan")), 1e-6, "python")


def test_the_command_leaves_the_files_in_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = trained_of("mobilenet")
    save_model(tmp_path / "model.pt", trained.network, trained.network, trained.genotype, INFO)
    assert main(["export", "run=model.pt", "format=python", "hydra.run.dir=exported"]) == 0
    assert (tmp_path / "exported" / "network.py").is_file()
    assert "over 64 images" in capsys.readouterr().out


def test_an_unknown_format_is_told_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run=model.pt", "format=tflite"]) == 2
    assert "one of onnx, torch_export, python, state_dict" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run=nowhere"]) == 2
    assert "there is no such model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
