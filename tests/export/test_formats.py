"""Every format computes what the network computes, for every space, without this program."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from nas_cli.architecture import Genotype
from nas_cli.catalogue import options
from nas_cli.cli import main
from nas_cli.config import build
from nas_cli.data import Dataset, ImageData, ImageInfo, Images
from nas_cli.errors import ConfigError, DataError, TrainingError
from nas_cli.export.agreement import Agreement, accuracy_of, compare, refuse, sample_images
from nas_cli.export.export_format import ExportFormat
from nas_cli.model import TrainedNetwork, save_model
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace

INFO = ImageInfo(3, 15, ("cat", 'the "dog"', "cow\nor pig"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), mirror=True)


def trained_of(
    space_name: str, info: ImageInfo = INFO, dataset: dict[str, object] | None = None
) -> TrainedNetwork:
    """A sampled network whose statistics and scales are not those of a new one; images of an odd size."""
    node = OmegaConf.load(options("space")[space_name])
    space = build(SearchSpace, node, info)  # type: ignore[arg-type]
    architecture = space.sample(random.Random(0))
    with seeded(0, "network"):
        network = space.build(architecture)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    genotype = Genotype(
        OmegaConf.to_container(node),  # type: ignore[arg-type]
        space.options_of(architecture),
        dataset=dataset,  # type: ignore[arg-type]
    )
    return TrainedNetwork(network, genotype, info).eval()


def format_of(name: str, **settings: object) -> ExportFormat:
    node = OmegaConf.merge(OmegaConf.load(options("format")[name]), settings)
    return build(ExportFormat, node)  # type: ignore[arg-type]


def some_images() -> ImageData:
    part = Images(
        torch.randint(0, 256, (40, 3, 15, 15), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        torch.arange(40) % 3,
    )
    return ImageData(INFO, part, part)


def write(name: str, trained: TrainedNetwork, folder: Path) -> Callable[[Tensor], Tensor]:
    return format_of(name).write(trained, some_images(), folder)


@pytest.mark.parametrize("name", options("format"))
@pytest.mark.parametrize("space_name", options("space"))
def test_the_files_compute_what_the_network_computes(space_name: str, name: str, tmp_path: Path) -> None:
    if name.startswith("onnx") and space_name != "darts":
        pytest.skip("torch's exporter takes seconds; the slow test does every space")
    trained, form = trained_of(space_name), format_of(name)
    run = form.write(trained, some_images(), tmp_path)
    agreement = compare(trained, run, sample_images(trained, None))
    assert agreement.num_images == 64
    assert agreement.difference < (0.2 if form.tolerance is None else form.tolerance)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(form.files)


@pytest.mark.slow
@pytest.mark.parametrize("space_name", options("space"))
def test_onnx_computes_every_space(space_name: str, tmp_path: Path) -> None:
    trained = trained_of(space_name)
    run = write("onnx", trained, tmp_path)
    assert compare(trained, run, sample_images(trained, None)).difference < 1e-4


LOADERS = {
    "torch_export": "import torch; run = torch.export.load('network.pt2').module()",
    "python": "import torch, network; run = network.load(); assert network.CLASS_NAMES[2] == 'cow\\nor pig'",
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_files_need_torch_alone(name: str, tmp_path: Path) -> None:
    trained = trained_of("mobilenet")
    write(name, trained, tmp_path)
    images = sample_images(trained, None)[:3]
    torch.save((images, trained(images).detach()), tmp_path / "expected.pt")
    script = (
        f"import sys; sys.modules['nas_cli'] = None\n{LOADERS[name]}\n"
        "images, logits = torch.load('expected.pt')\n"
        "torch.testing.assert_close(run(images), logits, rtol=1e-5, atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_the_operators_are_of_the_version_asked_for(tmp_path: Path) -> None:
    trained = trained_of("mobilenet")
    format_of("onnx", opset=20).write(trained, None, tmp_path)
    model = onnx.load(tmp_path / "network.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["class_names"]) == ["cat", 'the "dog"', "cow\nor pig"]
    with pytest.raises(ConfigError, match=r"format\.opset=99: .* write the network with opset \d\d"):
        format_of("onnx", opset=99).write(trained, None, tmp_path)


def test_eight_bits_need_the_training_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Bring them back to their place, or take format=onnx"):
        format_of("onnx_int8").write(trained_of("mobilenet"), None, tmp_path)


def test_eight_bits_are_told_with_the_accuracy_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    node = OmegaConf.load(options("dataset")["digits"])
    data = build(Dataset, node).load()  # type: ignore[arg-type]
    trained = trained_of("nasbench201", data.info, OmegaConf.to_container(node))  # type: ignore[arg-type]
    save_model(tmp_path / "model.pt", trained.network, trained.network, trained.genotype, data.info)
    words = ["format=onnx_int8", "format.calibration_images=64", "hydra.run.dir=exported"]
    assert main(["export", "run=model.pt", *words]) == 0
    found = json.loads((tmp_path / "exported" / "agreement.json").read_text())
    assert found["accuracy_before"] == accuracy_of(trained, trained, data.test)
    assert abs(found["accuracy_after"] - found["accuracy_before"]) < 10
    assert "% before," in capsys.readouterr().out
    model = onnx.load(tmp_path / "exported" / "network.onnx")
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(len(tensor.raw_data) for tensor in weights) > 10_000


def test_a_difference_beyond_rounding_is_refused() -> None:
    refuse(Agreement(64, 9e-7), 1e-6)
    with pytest.raises(TrainingError, match="compute something else than the network"):
        refuse(Agreement(64, 2e-6), 1e-6)
    with pytest.raises(TrainingError, match="compute something else"):
        refuse(Agreement(64, float("nan")), 1e-6)


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
    assert "onnx, onnx_int8, python, state_dict, torch_export" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run=nowhere"]) == 2
    assert "there is no such model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
