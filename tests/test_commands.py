"""The commands after one another, as a user gives them: search, derive, retrain, profile, on real images."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_cli.cli import main
from nas_cli.commands.setup import _load
from nas_cli.model import load_model
from tests.checkpoints import saved_weights

TINY = ["space=nasbench201", "space.num_cells=1", "space.channels=4"]
QUICK = ["recipe=smoke", "trainer.device=cpu", "dataset.limit=100"]
RANDOM = ["strategy=random", "strategy.num_evaluations=4", "evaluator=from_scratch", "evaluator.epochs=1"]
ELASTIC = [
    "strategy=ofa",
    "strategy.predictor_samples=5",
    "strategy.num_finalists=1",
    "space=mobilenet",
    "space.stem_channels=4",
    "space.first_channels=4",
    "space.stage_channels=[4,8]",
    "space.stage_strides=[1,2]",
    "space.head_channels=16",
    "space.depths=[1,2]",
]
DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)

OWN_STRATEGIES = """
import os, signal
import torch
from pathlib import Path
from nas_cli.strategies.darts import Darts

class Stopped(Darts):
    calls = 0

    def update_architecture(self, train, valid, descent):
        self.calls += 1
        if self.calls == 3 and Path("stop").exists():
            Path("stop").unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        super().update_architecture(train, valid, descent)

class FondOfSkips(Darts):
    def __init__(self, problem):
        super().__init__(problem)
        with torch.no_grad():
            for logits, candidates in zip(self.logits, self.supernet.candidates):
                logits[:, candidates.index("skip_connect")] = 9.0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run; `own` in it is a user's folder with strategies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own/strategy").mkdir(parents=True)
    Path("own/own_strategies.py").write_text(OWN_STRATEGIES)
    for name in ("Stopped", "FondOfSkips"):
        Path(f"own/strategy/{name.lower()}.yaml").write_text(f"_target_: own_strategies.{name}\n")
    return tmp_path


@pytest.fixture(scope="module")
def darts_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("darts") / "run", *TINY, *QUICK)


@pytest.fixture(scope="module")
def ofa_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("ofa") / "run", *ELASTIC, *QUICK)


@pytest.fixture(scope="module")
def random_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("random") / "run", *TINY, *QUICK, *RANDOM)


def search(folder: Path, *words: str) -> Path:
    assert main(["search", *words, f"hydra.run.dir={folder}"]) == 0
    return folder


def derive(search_folder: Path, *words: str) -> Path:
    assert main(["derive", f"run={search_folder}", *words, "hydra.run.dir=derived"]) == 0
    return Path("derived")


def retrain(genotype: str | Path, *words: str) -> Path:
    assert main(["retrain", f"genotype={genotype}", *QUICK, *words, "hydra.run.dir=retrained"]) == 0
    return Path("retrained")


def read(file: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads(file.read_text())
    return content


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def parameters(retrained: Path) -> int:
    count: int = json.loads((retrained / "result.json").read_text())["parameters"]
    return count


# Search


def test_a_genotype_says_what_was_found_by_whom_on_which_images(darts_search: Path) -> None:
    genotype = read(darts_search / "genotype.json")
    assert len(genotype["choices"]) == 6
    assert genotype["found_by"]["strategy"] == "Darts"
    assert 0 <= float(str(genotype["found_by"]["score"])) <= 100
    assert genotype["dataset"]["_target_"] == "nas_cli.datasets.digits.Digits"
    assert genotype["space"]["channels"] == 4


def test_architectures_are_scored_with_the_weights_of_an_earlier_search(darts_search: Path) -> None:
    run = search(
        Path("scored"),
        *TINY,
        *QUICK,
        "strategy=random",
        "strategy.num_evaluations=3",
        "evaluator=shared_weights",
        f"evaluator.run={darts_search}",
    )
    assert len(lines(run / "history.jsonl")) == 3


def test_a_search_stopped_within_an_epoch_ends_as_one_that_was_not() -> None:
    words = ["--config-dir", "own", "strategy=stopped", "preflight=false", *TINY, *QUICK]
    whole = search(Path("whole"), *words)
    Path("stop").touch()
    assert main(["search", *words, "hydra.run.dir=cut"]) == 143
    assert not Path("cut/genotype.json").exists()
    assert main(["search", "--resume", "cut"]) == 0
    assert read(Path("cut/genotype.json"))["choices"] == read(whole / "genotype.json")["choices"]
    weights = [saved_weights(run, "supernet") for run in (whole, Path("cut"))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_cell_of_skips_is_warned_of_in_the_log() -> None:
    run = search(Path("run"), "--config-dir", "own", "strategy=fondofskips", *TINY, *QUICK)
    assert "are skip connections: the search has collapsed" in (run / "search.log").read_text()


# Images of the user's own


def test_a_file_in_the_layout_of_medmnist_is_searched_on() -> None:
    draws = np.random.default_rng(0)
    arrays = {
        f"{part}_{kind}": draws.integers(0, high, shape, dtype=np.uint8)
        for part, count in (("train", 60), ("val", 10), ("test", 20))
        for kind, high, shape in (("images", 256, (count, 28, 28, 3)), ("labels", 2, (count, 1)))
    }
    np.savez("medmnist.npz", **arrays)  # type: ignore[arg-type]
    run = search(Path("run"), *TINY, "recipe=smoke", "dataset=npz", "dataset.path=medmnist.npz")
    images = json.loads((run / "images.json").read_text())
    assert (images["channels"], images["size"], len(images["class_names"])) == (3, 28, 2)


@pytest.mark.parametrize(
    ("mode", "size", "channels"), [("RGB", 16, 3), ("RGBA", 16, 4), ("L", 16, 1), ("RGB", 224, 3)]
)
def test_a_folder_of_pictures_is_searched_on(mode: str, size: int, channels: int) -> None:
    save_pictures(mode, size)
    space = ["space=darts", "space.num_cells=3", "space.channels=2", "space.num_nodes=1"]
    recipe = ["recipe=smoke", "recipe.epochs=1", "recipe.batch_size=4"]
    run = search(
        Path("run"), *space, *recipe, "dataset=folder", "dataset.path=pictures", "dataset.cache=cache"
    )
    images = json.loads((run / "images.json").read_text())
    assert (images["channels"], images["size"], images["class_names"]) == (channels, size, ["cats", "dogs"])


def save_pictures(mode: str, size: int) -> None:
    draws = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        Path("pictures", name).mkdir(parents=True)
        for k in range(10):
            noise = draws.integers(0, 256, (size, size, 4), dtype=np.uint8)
            Image.fromarray(noise).convert(mode).save(Path("pictures", name, f"{k}.png"))


# Derive


def test_the_three_best_of_a_random_search_come_best_first(random_search: Path) -> None:
    derived = derive(random_search, "top=3")
    scores = [
        float(str(read(derived / f"{name}.json")["found_by"]["score"]))
        for name in ("genotype", "genotype-2", "genotype-3")
    ]
    history = sorted((record["score"] for record in lines(random_search / "history.jsonl")), reverse=True)
    assert scores == history[:3]
    assert (derived / "genotype-3.svg").exists()
    assert not (derived / "genotype-4.json").exists()


def test_an_earlier_epoch_of_a_gradient_search_is_derived(darts_search: Path) -> None:
    genotype = read(derive(darts_search, "epoch=1") / "genotype.json")
    assert genotype["found_by"]["epoch"] == 1
    first_epoch = json.loads((darts_search / "metrics.jsonl").read_text().splitlines()[0])
    assert genotype["choices"] == first_epoch["choices"]


def test_the_best_within_a_budget_is_derived_without_searching_again(
    ofa_search: Path, random_search: Path
) -> None:
    for folder in (ofa_search, random_search):
        history = sorted({line["score"] for line in lines(folder / "history.jsonl")})
        whole = read(derive(folder, "budget.params=1e9") / "genotype.json")
        assert whole["found_by"]["score"] == history[-1]
        Path("derived").rename(f"{folder.parent.name}-derived")


def test_a_smaller_budget_derives_a_smaller_network(
    ofa_search: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = json.loads((ofa_search / "front.json").read_text())
    assert (ofa_search / "front.svg").exists()
    least = min(entry["objectives"]["multiply_adds"] for entry in front)
    derived = read(derive(ofa_search, f"budget.macs={least}") / "genotype.json")
    assert derived["choices"] == front[-1]["choices"]
    words = ["derive", f"run={ofa_search}", "hydra.run.dir=none"]
    assert main([*words, "budget.macs=10"]) == 2
    assert "budget.macs=10: none of the" in capsys.readouterr().err
    assert main([*words, "budget.latency_ms=3"]) == 2
    assert "budget.latency_table" in capsys.readouterr().err
    assert not Path("none").exists()


def test_an_epoch_and_a_top_are_refused_together(
    darts_search: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["derive", f"run={darts_search}", "epoch=1", "top=2"]) == 2
    assert "top=2 epoch=1" in capsys.readouterr().err


def test_a_search_that_was_stopped_is_derived() -> None:
    Path("stop").touch()
    words = ["--config-dir", "own", "strategy=stopped", "preflight=false", *TINY, *QUICK]
    words += ["hydra.run.dir=cut"]
    assert main(["search", *words]) == 143
    assert len(read(derive(Path("cut")) / "genotype.json")["choices"]) == 6


def test_a_sub_network_is_derived_with_its_weights_and_statistics(ofa_search: Path) -> None:
    derived = derive(ofa_search, "top=2")
    model = load_model(derived / "model.pt")
    assert dict(model.genotype.choices) == read(derived / "genotype.json")["choices"]
    weights = model.network.state_dict()
    supernet = saved_weights(ofa_search, "supernet")
    assert torch.equal(weights["skeleton.stem.conv.weight"], supernet["skeleton.stem.conv.weight"])
    name = "skeleton.stem.norm.running_mean"
    assert not torch.equal(weights[name], supernet[name])
    assert (derived / "model-2.pt").exists()


def test_a_sub_network_that_is_not_as_published_is_derived_without_weights(darts_search: Path) -> None:
    assert not (derive(darts_search) / "model.pt").exists()


def test_without_the_images_of_the_search_no_weights_are_derived(capsys: pytest.CaptureFixture[str]) -> None:
    labels, pixels = np.arange(80) % 2, np.zeros((80, 8, 8, 1), np.uint8)
    np.savez("images.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    run = search(Path("run"), *ELASTIC, *QUICK[:2], "dataset=npz", "dataset.path=images.npz")
    Path("images.npz").unlink()
    _load.cache_clear()  # another process has not read them
    derived = derive(run)
    assert (derived / "genotype.json").exists()
    assert not (derived / "model.pt").exists()
    assert "No model.pt is written. dataset.path=images.npz" in capsys.readouterr().err


# Retrain and profile


def test_a_sub_network_is_trained_on_from_its_weights(ofa_search: Path) -> None:
    derived = derive(ofa_search)
    almost_none = ["recipe.learning_rate=1e-9", "recipe.final_learning_rate=0", "recipe.epochs=1"]
    retrained = retrain(derived / "genotype.json", f"weights={derived / 'model.pt'}", *almost_none)
    begun, ended = (dict(load_model(folder).network.named_parameters()) for folder in (derived, retrained))
    torch.testing.assert_close(ended, begun, atol=1e-6, rtol=0)


def test_what_is_derived_is_retrained_and_tested(darts_search: Path) -> None:
    retrained = retrain(derive(darts_search) / "genotype.json")
    result = json.loads((retrained / "result.json").read_text())
    assert result.keys() == {"test_accuracy", "parameters", "multiply_adds", "seconds"}
    assert result["test_accuracy"] * 3.6 == pytest.approx(round(result["test_accuracy"] * 3.6))  # of 360
    assert result["parameters"] > 0
    assert result["multiply_adds"] > 0
    assert result["seconds"] > 0


def test_the_log_of_a_retraining_says_in_what_precision_it_was(darts_search: Path) -> None:
    retrained = retrain(darts_search / "genotype.json", "trainer.precision=bf16", "recipe.epochs=1")
    assert "Trained on: cpu, bf16, channels_last" in (retrained / "retrain.log").read_text()


def test_a_network_is_rebuilt_larger(darts_search: Path) -> None:
    retrained = retrain(darts_search / "genotype.json", "space.channels=8", "space.num_cells=2")
    genotype = read(retrained / "genotype.json")
    assert (genotype["space"]["channels"], genotype["space"]["num_cells"]) == (8, 2)
    assert genotype["choices"] == read(darts_search / "genotype.json")["choices"]


def test_retraining_sees_all_training_images(darts_search: Path) -> None:
    words = ["recipe.epochs=1", "recipe.steps_per_epoch=null", "recipe.batch_size=20"]
    (epoch,) = lines(retrain(darts_search / "genotype.json", *words) / "metrics.jsonl")
    assert epoch["seconds"] * epoch["images_per_second"] == pytest.approx(100)


SMALL = ["space.num_cells=3", "space.channels=4"]


def test_a_published_cell_is_retrained_by_its_name() -> None:
    assert parameters(retrain("darts_v2", *SMALL)) > 0


def test_darts_own_text_is_retrained_from_a_file_and_from_the_command_line() -> None:
    Path("genotypes.py").write_text(f"DARTS_V1 = {DARTS_V1}\n")
    from_file = parameters(retrain("genotypes.py", *SMALL))
    Path("retrained").rename("from_file")
    assert parameters(retrain(DARTS_V1, *SMALL)) == from_file


def test_a_profile_in_json_is_one_object_and_nothing_else(
    darts_search: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--json", f"genotype={darts_search / 'genotype.json'}"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"parameters", "multiply_adds", "latency_ms"} < figures.keys()
    assert not Path("outputs").exists()
