"""Bad input, through the command line: exit code 2, one screen of sentences, and nothing written or lost.

What belongs to one module is tested beside it (`test_cli.py`, `test_config.py`, `datasets/`); here are
the mistakes that only whole commands can tell.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_cli.cli import main
from nas_cli.spaces.nasbench201 import OPERATIONS
from tests.checkpoints import saved_weights

Refused = Callable[..., str]

SMOKE = ["recipe=smoke", "dataset.limit=100", "trainer.device=cpu"]
SMALL = ["space.num_cells=3", "space.channels=4", "space.num_nodes=1"]
BENCH = ["space=nasbench201", "space.num_cells=1", "space.channels=4"]
SAMPLED = ["strategy=random", "strategy.num_evaluations=2"]
SHORT = ["evaluator=from_scratch", "evaluator.epochs=1"]
TABLE = [*BENCH, *SAMPLED, "evaluator=tabular", "evaluator.path=table.npz"]
OPENED = {kind: f"{{opens: [{kind}], share: 0.25}}" for kind in ("", "depth", "kernel", "width")}
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|"

KEEPS_THEN_FAILS = """
from nas_cli.errors import DataError
from nas_cli.strategies.random import RandomSearch

class KeepsThenFails(RandomSearch):
    def observe(self, architecture, evaluation):
        raise DataError("image 7 cannot be read")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each kind, a table and images: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["search", *SMOKE, *SMALL, "hydra.run.dir=shared"]) == 0
        assert main(["search", *SMOKE, *BENCH, *SAMPLED, *SHORT, "hydra.run.dir=sampled"]) == 0
        genotype = "genotype=shared/genotype.json"
        assert main(["retrain", *SMOKE, genotype, "hydra.run.dir=trained"]) == 0
    make_table(folder / "table.npz")
    make_images(folder)
    return folder


def make_table(file: Path) -> None:
    cells = itertools.product(OPERATIONS, repeat=6)
    names = [f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|" for a, b, c, d, e, f in cells]
    columns = {"c10_val12": 50.0, "c10_test200": 90.0, "c10_train_seconds200": 1000.0}
    values = {name: np.full(len(names), value) for name, value in columns.items()}
    np.savez_compressed(file, arch=np.array(names), allow_pickle=True, **values)
    del values["c10_train_seconds200"]
    np.savez_compressed(file.with_name("no_seconds.npz"), arch=np.array(names), allow_pickle=True, **values)


def make_images(folder: Path) -> None:
    np.savez(folder / "other.npz", pictures=np.zeros(3))
    labels, pixels = np.arange(40) % 2, np.zeros((40, 4, 4, 1), np.uint8)
    np.savez(folder / "small.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    (folder / "flat").mkdir()
    Image.new("L", (8, 8)).save(folder / "flat" / "a.png")
    for name, place in itertools.product(("cat", "dog"), range(20)):
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * place).save(folder / "photos" / name / f"{place}.png")
    (folder / "photos" / "cat" / "torn.png").write_bytes(b"no image")


@pytest.fixture(autouse=True)
def _in_a_copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Gives a command that must be refused; the answer is what it tells on stderr."""

    def give(*words: str) -> str:
        capsys.readouterr()
        before = contents()
        assert main(list(words)) == 2
        assert contents() == before
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "unexpected" not in told
        assert 1 <= len(told.splitlines()) <= 20
        return told

    return give


def contents() -> dict[str, bytes | None]:
    """Every file and folder here, but for the two files in which a run writes that it failed."""
    own = {"status.json", "search.log", "retrain.log"}
    paths = [path for path in Path.cwd().rglob("*") if path.name not in own and path.suffix != ".pyc"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def interrupted(folder: str) -> Path:
    """The finished run as one that can be resumed."""
    file = Path(folder, "status.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "interrupted"}))
    return Path(folder)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def tells(told: str, *parts: str) -> None:
    for part in parts:
        assert part in told


# Settings


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["recipe=3"], ["recipe=3: there is no such option of recipe", "smoke"]),
        (["recipe.learning_rate=inf"], ["recipe.learning_rate=", "a number above 0"]),
        (["trainer.devices=0"], ["trainer.devices=0: must be"]),
        (["strategy._target_=nas_cli.config.check"], ["nas_cli.config.check", "subclass of"]),
        (["strategy._target_=3"], ["strategy._target_=3", "nas_cli.strategy.Strategy"]),
        (["~seed"], ["seed= is needed: a whole number at least 0"]),
        (["+top=3"], ["top: there is no such setting", "There are: space", "seed"]),
        (["hydra.bogus=1"], ["hydra.bogus=1"]),
        (["+=[]"], ["cannot read these settings", "+=[]", "key=value"]),
        (
            ["recipe.learning_rate=0.0001"],
            ["recipe.learning_rate=0.0001", "recipe.final_learning_rate=0.001", "Lower it"],
        ),
        (
            ["space.num_cells=2", "trainer.device=tpu", "strategy.betas=[0.5]"],
            ["3 settings are wrong", "space.num_cells=2", "trainer.device=tpu", "strategy.betas=[0.5]"],
        ),
        (
            ["space=cell", "space.operations=[]"],
            [
                "space.operations=[]: must be a list",
                "conv3x3, conv5x5",
                "name some, or leave the setting out",
            ],
        ),
        (
            ["strategy=ofa", "space=mobilenet", "strategy.phases=[{opens: [depth], share: 1.0}]"],
            ["strategy.phases[0] opens depth: the first phase must train the largest", "opens: []"],
        ),
        (
            ["strategy=ofa", "space=mobilenet", f"strategy.phases=[{','.join(OPENED.values())}]"],
            ["strategy.phases[2] opens kernel after depth: out of order", "kernel, depth, width"],
        ),
        (
            ["strategy=ofa", "space=mobilenet", "strategy.phases=[{opens: [kernl], share: 1.0}]"],
            ["one of kernel, depth, width", "Did you mean kernel?"],
        ),
        (["space=cell", "space.operations=[none]"], ["none alone computes nothing: name at least one more"]),
        (
            ["space=cell", "space.operations=[conv3x3,none,conv3x3]"],
            ["conv3x3 is there more than once: name each operation once"],
        ),
        (["space=cell", "space.operations=[conv3x3,conv_7x7]"], ["one of conv3x3", "Did you mean conv7x7?"]),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_allowed(
    refused: Refused, words: list[str], parts: list[str]
) -> None:
    tells(refused("search", *SMOKE, *words), *parts)


def test_a_file_of_settings_that_is_one_word_is_named(refused: Refused) -> None:
    Path("mine", "strategy").mkdir(parents=True)
    Path("mine", "strategy", "mine.yaml").write_text("'-1'\n")
    told = refused("search", "--config-dir", "mine", "strategy=mine")
    tells(told, "mine/strategy/mine.yaml holds no settings (it is one word)", "`order: 1`")


def test_a_misspelt_key_is_told_also_where_a_genotype_brings_the_space(refused: Refused) -> None:
    told = refused("retrain", *SMOKE, "genotype=darts_v2", "recipe.epoch=3")
    assert told == "recipe.epoch: there is no such setting. Did you mean recipe.epochs?\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("command", [["search"], ["retrain", "genotype=darts_v2"]])
def test_a_device_that_is_not_there_is_told_with_those_there_are(
    refused: Refused, command: list[str]
) -> None:
    tells(refused(*command, *SMOKE, "trainer.device=cuda"), "trainer.device=cuda", "It has: cpu")


# Weights


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["weights=none.pt"], ["none.pt: there is no such model", "nas derive"]),
        (["weights=sampled/history.jsonl"], ["history.jsonl is damaged or no model"]),
        (["space.channels=8"], ["weights=trained do not fit", "has the shape", "space.* settings"]),
        (["genotype=other.json"], ["weights=trained are of another genotype", "Give the genotype.json"]),
        (["genotype=sampled/genotype.json"], ["weights=trained are of another search space"]),
    ],
)
def test_weights_that_do_not_fit_are_told_with_what_differs(
    refused: Refused, words: list[str], parts: list[str]
) -> None:
    shutil.copy("shared/genotype.json", "other.json")
    choices = json.loads(Path("other.json").read_text())["choices"]
    first = choices["normal.node2.first"]
    edit(
        Path("other.json"),
        f'"normal.node2.first": "{first}"',
        f'"normal.node2.first": "{"sep_conv_3x3" if first != "sep_conv_3x3" else "max_pool_3x3"}"',
    )
    given = ["genotype=shared/genotype.json", "weights=trained"]
    tells(refused("retrain", *SMOKE, *given, *words), *parts)


# Images


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["dataset=npz", "dataset.path=none.npz"], ["dataset.path=none.npz", "no such file", "x_train"]),
        (["dataset=npz", "dataset.path=other.npz"], ["other.npz holds pictures", "It needs x_train"]),
        (["dataset=npz", "dataset.path=small.npz"], ["small.npz", "4 x 4 pixels", "8 to 224", "Resize"]),
        (["dataset=folder", "dataset.path=none"], ["dataset.path=none", "one folder a class"]),
        (["dataset=folder", "dataset.path=flat"], ["flat holds 1 images", "a folder of its own"]),
        (
            ["dataset=folder", "dataset.path=photos", "dataset.cache_gb=0"],
            ["photos/cat/torn.png", "skip_unreadable=true"],
        ),
        (["dataset.limit=5000"], ["dataset.limit=5000", "1437", "at most 1437"]),
        (["dataset.limit=5"], ["dataset.limit=5", "at least 10"]),
        (["dataset.limit=1.5"], ["dataset.limit=1.5", "a whole number at least 2, or null"]),
        (["dataset.limit=11"], ["1 training image;", "at least 2 of each class", "raise dataset.limit"]),
    ],
)
def test_wrong_images_are_told_with_the_remedy(refused: Refused, words: list[str], parts: list[str]) -> None:
    tells(refused("search", "recipe=smoke", *words), *parts)


def test_a_search_goes_on_without_an_unreadable_image_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    photos = ["dataset=folder", "dataset.path=photos", "dataset.cache_gb=0", "dataset.skip_unreadable=true"]
    assert main(["search", "recipe=smoke", *SMALL, *SAMPLED, *SHORT, *photos]) == 0
    assert "Going on without photos/cat/torn.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "batch", "images"),
    [
        (["search"], 64, 50),
        (["search", *SAMPLED], 64, 50),
        (["retrain", "genotype=darts_v2"], 128, 100),
    ],
)
def test_a_batch_larger_than_the_data_is_told_with_the_largest(
    refused: Refused, command: list[str], batch: int, images: int
) -> None:
    told = refused(*command, *SMOKE, f"recipe.batch_size={batch}")
    tells(told, f"recipe.batch_size={batch}", f"at most {images}")


# Genotypes


@pytest.mark.parametrize(
    ("genotype", "parts"),
    [
        (
            "darts_v3",
            ["genotype=darts_v3", "Did you mean darts_v", "Published: amoebanet_a, darts_v1, darts_v2"],
        ),
        ("shared", ["genotype=shared", "is a folder", "genotype.json"]),
        ("photos/cat/0.png", ["photos/cat/0.png is no text file", "`nas search`"]),
        ("latest", ["outputs holds no finished run", "nas search"]),
        (CELL, [CELL, "not DARTS' text form", "space="]),
        (
            "Genotype(normal=[('conv_9x9', 0), ('skip_connect', 1)], normal_concat=[2], "
            "reduce=[('skip_connect', 0), ('skip_connect', 1)], reduce_concat=[2])",
            ["'conv_9x9'", "sep_conv_3x3"],
        ),
    ],
)
@pytest.mark.parametrize("command", [["retrain", "recipe=smoke"], ["profile"]])
def test_what_is_no_genotype_is_told_with_what_would_be(
    refused: Refused, command: list[str], genotype: str, parts: list[str]
) -> None:
    tells(refused(*command, f"genotype={genotype}", "space.num_nodes=1"), *parts)


def test_a_genotype_file_that_is_no_json_is_told_with_the_line(refused: Refused) -> None:
    Path("mine.json").write_text('{"format": 1,\n oops}')
    tells(refused("retrain", *SMOKE, "genotype=mine.json"), "mine.json is not JSON (line 2", "`nas search`")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('"normal.node2.first": "', '"normal.node2.first": "my_', ["normal.node2.first", "'my_", "it has"]),
        (
            '"normal.node2',
            '"0->1.node2',
            ["'normal.node2.first'", "another space", "space.*"],
        ),
        ('"format": 1', '"format": 9', ["format 9", "reads format 1"]),
        ("nas_cli.spaces.darts.DartsSpace", "os.system", ["space._target_=os.system", "subclass of"]),
    ],
)
def test_a_wrong_genotype_file_is_told_with_what_is_allowed(
    refused: Refused, old: str, new: str, parts: list[str]
) -> None:
    edit(Path("shared/genotype.json"), old, new)
    tells(refused("retrain", *SMOKE, "genotype=shared/genotype.json"), *parts)


def test_a_genotype_of_four_nodes_is_refused_by_a_space_of_three(refused: Refused) -> None:
    told = refused("retrain", *SMOKE, "genotype=darts_v2", "space.num_nodes=3")
    tells(told, "'normal.node5.first'", "leave out those space.*")


def test_the_genotype_of_a_search_still_running_is_told_with_how_to_derive_it(refused: Refused) -> None:
    Path("shared/genotype.json").unlink()
    told = refused("retrain", *SMOKE, "genotype=shared/genotype.json")
    tells(told, "genotype=shared/genotype.json", "nas derive run=shared")


def test_a_sweep_over_published_cells_trains_each(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", "genotype=darts_v1,darts_v2", "recipe.epochs=1", "recipe.steps_per_epoch=1"]
    assert main(["retrain", *SMOKE, "space.num_cells=3", "space.channels=4", *sweep]) == 0
    assert capsys.readouterr().out.count(" done ") == 2


# Recipes and evaluators that do not go with the rest


@pytest.mark.parametrize("setting", ["drop_path=0.2", "auxiliary_weight=0.4", "average_decay=0.9"])
def test_a_setting_without_effect_on_shared_weights_is_refused(refused: Refused, setting: str) -> None:
    told = refused("search", *SMOKE, *SMALL, f"recipe.{setting}")
    tells(told, f"recipe.{setting}", "no effect", "`nas retrain`")


@pytest.mark.parametrize("command", [["search", *SAMPLED, *SHORT], ["retrain", f"genotype={CELL}"]])
@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("recipe.drop_path=0.2", ["recipe.drop_path=0.2", "no paths to drop", "Set it to 0"]),
        ("recipe.auxiliary_weight=0.4", ["no auxiliary head", "recipe.auxiliary_weight=0"]),
    ],
)
def test_a_network_without_the_part_that_a_recipe_trains_is_refused(
    refused: Refused, command: list[str], setting: str, parts: list[str]
) -> None:
    tells(refused(*command, *SMOKE, *BENCH, setting), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*SAMPLED], ["evaluator.run= is needed", "nas search strategy=darts"]),
        ([*SAMPLED, "evaluator.run=none"], ["none", "a folder that a `nas` command made"]),
        ([*SAMPLED, *BENCH, "evaluator.run=shared"], ["evaluator.run=shared", "another space"]),
        ([*SAMPLED, *SMALL, "evaluator.run=sampled"], ["evaluator.run=sampled", "no supernet"]),
        ([*SAMPLED, *SMALL, "evaluator.run=trained"], ["trained is a run of `nas retrain`"]),
        ([*SMALL, "evaluator.run=shared"], ["evaluator.run=shared", "Leave evaluator.run out"]),
    ],
)
def test_shared_weights_that_do_not_fit_are_refused(
    refused: Refused, words: list[str], parts: list[str]
) -> None:
    tells(refused("search", *SMOKE, "evaluator=shared_weights", *words), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["evaluator.path=none.npz"], ["evaluator.path=none.npz", "no such file", "table"]),
        (["evaluator.path=other.npz"], ["evaluator.path=other.npz", "`arch`"]),
        (["evaluator.path=no_seconds.npz"], ["no column c10_train_seconds200"]),
        (["evaluator.budget_seconds=5"], ["evaluator.budget_seconds=5", "60 seconds", "Raise it"]),
        (["evaluator.fidelity=13"], ["fidelity of 13 epochs", "c10_val12"]),
        (["evaluator.dataset=c99"], ["evaluator.dataset=c99", "c10_val12"]),
    ],
)
def test_a_table_that_does_not_fit_is_refused(refused: Refused, words: list[str], parts: list[str]) -> None:
    tells(refused("search", *SMOKE, *TABLE, *words), *parts)


def test_a_table_of_another_space_is_refused(refused: Refused) -> None:
    told = refused("search", *SMOKE, *SAMPLED, "evaluator=tabular", "evaluator.path=table.npz")
    tells(told, "table.npz", "another space than DartsSpace", "space=nasbench201")


# Runs


def test_a_damaged_checkpoint_is_told_with_the_remedy(refused: Refused) -> None:
    file = interrupted("shared") / "checkpoint.pt"
    file.with_name("checkpoint.previous.pt").unlink(missing_ok=True)
    flipped = bytearray(file.read_bytes())
    flipped[flipped.index(b"fingerprint")] ^= 1
    for damaged in (bytes(flipped), bytes(flipped[: len(flipped) // 2]), b""):
        file.write_bytes(damaged)
        told = refused("search", "--resume", "shared")
        tells(told, "shared/checkpoint.pt is damaged", "Remove that file", "nas search --resume shared")


def test_after_its_damaged_checkpoint_is_removed_a_run_begins_anew() -> None:
    for checkpoint in interrupted("shared").glob("checkpoint*.pt"):
        checkpoint.unlink()
    assert main(["search", "--resume", "shared"]) == 0


def test_a_checkpoint_of_other_settings_is_refused(refused: Refused) -> None:
    edit(interrupted("shared") / "config.yaml", "learning_rate: 0.025", "learning_rate: 0.03")
    told = refused("search", "--resume", "shared")
    tells(told, "shared/checkpoint.pt is from other settings", "config.yaml")


def test_a_history_of_other_settings_is_refused_and_kept(refused: Refused) -> None:
    edit(interrupted("sampled") / "config.yaml", "seed: 0", "seed: 1")
    tells(refused("search", "--resume", "sampled"), "sampled/history.jsonl", "other settings")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 0", "", "seed= is needed"),
        ("limit: 100", "limit: 10000", "dataset.limit=10000"),
        ("channels: 4", "channels: 5", "space.channels=5"),
        ("space:", "[[[", "config.yaml is missing or damaged"),
    ],
)
def test_a_wrong_config_of_a_run_to_resume_is_told(refused: Refused, old: str, new: str, said: str) -> None:
    edit(interrupted("shared") / "config.yaml", old, new)
    assert said in refused("search", "--resume", "shared")


def test_a_search_whose_settings_lost_a_part_is_told_with_the_part(refused: Refused) -> None:
    edit(Path("shared", "config.yaml"), "space:", "spice:")
    tells(refused("derive", "run=shared"), "shared/config.yaml is damaged: it has no space", "Restore")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"score"', '"scorn"', "sampled/history.jsonl, line 1 has no score"),
        ('"picks": [', '"picks": [77, ', "is no architecture of this space: it has"),
        ('"picks": [', '"picks": [-', "is no architecture of this space: it has"),
    ],
)
def test_a_damaged_history_is_told_with_the_line(refused: Refused, old: str, new: str, said: str) -> None:
    edit(Path("sampled", "history.jsonl"), old, new)
    Path("sampled", "genotype.json").unlink()
    assert said in refused("derive", "run=sampled")


def test_a_report_of_a_damaged_history_leaves_its_costs_out() -> None:
    edit(Path("sampled", "history.jsonl"), '"picks": [', '"picks": [77, ')
    assert main(["report", "sampled"]) == 0


def test_a_retrain_is_not_resumed_as_a_search(refused: Refused) -> None:
    interrupted("trained")
    assert "`nas retrain --resume trained`" in refused("search", "--resume", "trained")


def test_input_that_is_wrong_in_the_middle_of_a_search_loses_no_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine/strategy").mkdir(parents=True)
    Path("mine/keeps.py").write_text(KEEPS_THEN_FAILS)
    Path("mine/strategy/keeps.yaml").write_text("_target_: keeps.KeepsThenFails\nnum_evaluations: 2\n")
    mine = ["--config-dir", "mine", "strategy=keeps", *SHORT, "hydra.run.dir=kept"]
    assert main(["search", *SMOKE, *BENCH, *mine]) == 2
    assert "image 7 cannot be read" in capsys.readouterr().err
    assert len(Path("kept/history.jsonl").read_text().splitlines()) == 1
    assert json.loads(Path("kept/status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run=shared", "top=99"], ["top=99", "Give top="]),
        (["run=shared", "epoch=7"], ["epoch=7", "epochs 1 to 2"]),
        (["run=sampled", "epoch=1"], ["epoch=1", "leave epoch out"]),
        (["run=trained"], ["trained is a run of `nas retrain`"]),
        (["run=none"], ["none", "a folder that a `nas` command made"]),
        (["run=shared", "top=0"], ["top=0", "a whole number at least 1"]),
    ],
)
def test_what_a_search_does_not_hold_cannot_be_derived(
    refused: Refused, words: list[str], parts: list[str]
) -> None:
    tells(refused("derive", *words), *parts)


# Output folders


@pytest.mark.parametrize("folder", ["table.npz/run", "/proc/run", f"new/{'x' * 300}"])
def test_a_run_folder_that_cannot_be_made_is_told(refused: Refused, folder: str) -> None:
    tells(refused("search", *SMOKE, *SMALL, f"hydra.run.dir={folder}"), folder, "hydra.run.dir=FOLDER")


@pytest.mark.parametrize("folder", ["table.npz/sweep", "/proc/sweep"])
def test_a_sweep_folder_that_cannot_be_made_is_told(refused: Refused, folder: str) -> None:
    told = refused("search", *SMOKE, *SMALL, "-m", "seed=0,1", f"hydra.sweep.dir={folder}")
    tells(told, folder, "hydra.sweep.dir=FOLDER")


# Work that fails


@pytest.mark.parametrize("command", [["search", *SMALL], ["retrain", "genotype=shared/genotype.json"]])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    wild = ["recipe.learning_rate=1e12", "recipe.gradient_clip=0", "recipe.epochs=20"]
    assert main([*command, *SMOKE, *wild, "recipe.steps_per_epoch=1", "hydra.run.dir=wild"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    tells(said, "step", "at learning rate", "Lower recipe.learning_rate (now 1e+12)", "recipe.gradient_clip")
    status = json.loads(Path("wild/status.json").read_text())
    assert (status["status"], status["error"]) == ("failed", said)
    weights = saved_weights(Path("wild"), "supernet" if command[0] == "search" else "network")
    assert all(weight.isfinite().all() for name, weight in weights.items() if name.endswith("weight"))
