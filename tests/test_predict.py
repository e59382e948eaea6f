"""`nas predict`: images and folders in, classes out as a table, CSV or JSON lines."""

import csv
import io
import json
import random
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from nas_cli.architecture import Genotype
from nas_cli.catalogue import options
from nas_cli.cli import main
from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.model import TrainedNetwork, load_model, save_model
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace

INFO = ImageInfo(3, 16, ("cat", "dog", "cow"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), mirror=True)


@pytest.fixture(autouse=True)
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedNetwork:
    """A network in model.pt, of the folder the commands run in."""
    monkeypatch.chdir(tmp_path)
    node = OmegaConf.load(options("space")["nasbench201"])
    space = build(SearchSpace, node, INFO)  # type: ignore[arg-type]
    architecture = space.sample(random.Random(0))
    genotype = Genotype(OmegaConf.to_container(node), space.options_of(architecture))  # type: ignore[arg-type]
    with seeded(0, "network"):
        module = space.build(architecture)
    save_model(tmp_path / "model.pt", module, module, genotype, INFO)
    return load_model(tmp_path / "model.pt")


def save_image(file: str, seed: int, channels: int = 3) -> torch.Tensor:
    drawn = torch.randint(0, 256, (channels, 16, 16), generator=torch.Generator().manual_seed(seed))
    pixels = drawn.to(torch.uint8)
    Path(file).parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(file)
    return pixels


def test_the_probabilities_are_those_of_the_network(
    network: TrainedNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [save_image(f"photos/{k}.png", k) for k in range(5)]
    expected = network.predict(torch.stack(images))
    words = ["run=model.pt", "top=3", "batch_size=2", "--format", "jsonl"]
    assert main(["predict", "photos", *words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [f"photos/{k}.png" for k in range(5)]
    for line, probabilities in zip(lines, expected, strict=True):
        found = {entry["class"]: entry["probability"] for entry in line["predictions"]}
        assert list(found) == [INFO.class_names[k] for k in probabilities.argsort(descending=True)]
        for name, probability in zip(INFO.class_names, probabilities.tolist(), strict=True):
            assert found[name] == pytest.approx(probability, abs=1e-5)


def test_csv_has_a_row_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("one.png", 0)
    assert main(["predict", "one.png", "run=model.pt", "top=2", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["image"], row["rank"]) for row in rows] == [("one.png", "1"), ("one.png", "2")]
    assert 1 > float(rows[0]["probability"]) > float(rows[1]["probability"]) > 0


def test_the_table_names_the_most_probable_class_and_nothing_is_written(
    network: TrainedNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = save_image("one.png", 0)
    assert main(["predict", "one.png", "run=model.pt"]) == 0
    value, index = network.predict(pixels[None]).max(1)
    expected = f"one.png  {INFO.class_names[int(index)]} {100 * float(value):.1f} %"
    assert capsys.readouterr().out.splitlines()[1].strip() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "one.png"]


def test_images_that_cannot_be_read_are_told_after_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("photos/b.png", 0)
    Path("photos/a.png").write_bytes(b"no image")
    assert main(["predict", "photos", "run=model.pt", "--format=csv"]) == 2
    told = capsys.readouterr()
    assert "photos/b.png,1," in told.out
    assert told.err == "photos/a.png is no readable image (no known image format).\n"


def test_another_number_of_channels_is_refused_and_converted_on_demand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_image("grey.png", 0, channels=1)
    assert main(["predict", "grey.png", "run=model.pt"]) == 2
    assert "grey.png is grey, the network takes images of 3 channels. Set convert=true" in (
        capsys.readouterr().err
    )
    assert main(["predict", "grey.png", "run=model.pt", "convert=true"]) == 0
    assert "grey.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png", "run=model.pt"], "nowhere.png: there is no such image or folder."),
        (["run=model.pt"], "nas predict needs an image, or a folder of images"),
        (["empty", "run=model.pt"], "empty holds no images."),
        (["one.png", "run=elsewhere"], "there is no such model"),
        (["one.png"], "no finished run of `nas retrain`"),
        (["one.png", "run=model.pt", "tops=2"], "Did you mean top?"),
        (["one.png", "run=model.pt", "top=0"], "top=0: must be a whole number at least 1"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    save_image("one.png", 0)
    assert main(["predict", *words]) == 2
    assert message in capsys.readouterr().err
