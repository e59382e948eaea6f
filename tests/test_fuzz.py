"""Random settings, YAML, genotypes, images and run folders: a sentence and an exit code, and nothing written.

`FUZZ=1000 pytest tests/test_fuzz.py` tries a thousand cases of each; by default few, always the same.
"""

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from nas_cli import jobs
from nas_cli.cli import main
from nas_cli.commands import profile
from nas_cli.config.composition import Request, compose

CASES = int(os.environ.get("FUZZ", "30"))
fuzz = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

SMOKE = ["recipe=smoke", "dataset.limit=100", "trainer.device=cpu", "preflight=false"]
BENCH = ["space=nasbench201", "space.num_cells=1", "space.channels=4"]


def keys_of(config: DictConfig) -> list[str]:
    """`recipe.epochs` and all others, groups among them."""
    found = []
    for key in config:
        name = str(key)
        found.append(name)
        node = None if OmegaConf.is_missing(config, name) else config[name]
        if isinstance(node, DictConfig):
            found += [f"{name}.{inner!s}" for inner in node]
    return found


KEYS = keys_of(compose(Request("search")))
NUMBERS = ("-1", "0", "1e309", "nan", "inf", "9" * 400)
GRAMMAR = ("[]", "{}", "[1,2", "{a:b}", "{a: [b]}", "'x'", '"', "'", "\\", "a,b", "range(0,3)", "choice(1,2)")
REFERENCES = ("${seed}", "${nope}", "${oc.env:HOME}", "${", "digits", "darts", "../..", "/", "os.system")
ODD = (*NUMBERS, *GRAMMAR, *REFERENCES, "null", "true", "", "???", "a=b", "\x00", "\ud7ff", "é")
words = st.one_of(st.sampled_from(ODD), st.text(max_size=8), st.integers().map(str), st.floats().map(str))
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))
overrides = st.tuples(st.sampled_from(("", "", "", "+", "++", "~")), keys, words).map(
    lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(ODD) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is done."""
    folder = tmp_path_factory.mktemp("finished")
    words = [*SMOKE, *BENCH, "strategy=random", "strategy.num_evaluations=2", "evaluator.epochs=1"]
    assert main(["search", *words, "evaluator=from_scratch", f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], int]:
    """Gives a command; the answer is its exit code, and what is wrong was told in sentences."""

    def give(words: list[str]) -> int:
        before = contents()
        code = main(words)
        output = capsys.readouterr()
        assert code in (0, 1, 2), (words, output.err)
        assert "Traceback" not in output.err, words
        assert "(unexpected" not in output.err, (words, output.err)
        if code == 2:
            assert contents() == before, words
            assert output.err.strip(), words
        return code

    return give


def contents() -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_size) for path in Path.cwd().rglob("*") if path.suffix != ".pyc"}


@pytest.fixture
def nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes all checks ends there."""
    monkeypatch.setattr(jobs, "_call_hydra", lambda request, flags=(): None)
    monkeypatch.setattr(profile, "_of_network", lambda *given: ({}, {}))
    monkeypatch.setattr(profile, "_of_space", lambda *given: ({}, {}))


@pytest.mark.usefixtures("nothing_is_run")
def test_any_settings(told: Callable[[list[str]], int]) -> None:
    @fuzz
    @given(st.lists(overrides, min_size=1, max_size=3), st.booleans())
    def check(given_words: list[str], sweep: bool) -> None:
        told(["search", *(["-m"] if sweep else []), "--", *given_words])

    check()


@pytest.mark.usefixtures("nothing_is_run")
def test_any_yaml(told: Callable[[list[str]], int], tmp_path: Path) -> None:
    (tmp_path / "mine" / "strategy").mkdir(parents=True)
    file = tmp_path / "mine" / "strategy" / "mine.yaml"
    of_a_strategy = st.fixed_dictionaries(
        {"_target_": st.sampled_from(("nas_cli.strategies.darts.Darts", "os.system", "subprocess.Popen", 3))},
        optional={"order": values, "hessian": values, "learning_rate": values, "": values},
    )

    @fuzz
    @given(st.one_of(values, of_a_strategy).map(yaml.safe_dump) | st.text(max_size=30))
    def check(text: str) -> None:
        file.write_text(text, encoding="utf-8", errors="replace")
        told(["search", "--config-dir", "mine", "strategy=mine"])

    check()


@pytest.mark.usefixtures("nothing_is_run")
def test_any_genotype(told: Callable[[list[str]], int], finished: Path) -> None:
    valid = json.loads((finished / "genotype.json").read_text())

    @fuzz
    @given(st.randoms(use_true_random=False), values)
    def check(draws: random.Random, value: object) -> None:
        Path("genotype.json").write_text(json.dumps(with_one_changed(valid, value, draws)))
        told(["profile", "genotype=genotype.json"])

    check()


def with_one_changed(content: object, value: object, draws: random.Random) -> object:
    """JSON with the value at a random place in it."""
    if isinstance(content, dict) and content and draws.random() < 0.9:
        key = draws.choice(sorted(content))
        return {**content, key: with_one_changed(content[key], value, draws)}
    return value


@pytest.mark.usefixtures("nothing_is_run")
def test_any_npz_file(told: Callable[[list[str]], int]) -> None:
    @fuzz
    @given(st.randoms(use_true_random=False))
    def check(draws: random.Random) -> None:
        Path("images.npz").write_bytes(some_npz(draws))
        told(["profile", "space=nasbench201", "dataset=npz", "dataset.path=images.npz"])

    check()


def some_npz(draws: random.Random) -> bytes:
    """Arrays of odd shapes and types under the right names; of every other file some bytes are wrong."""
    sizes = (0, 1, 2, 8, 9)
    arrays = {}
    for part in ("train", "test"):
        count = draws.choice(sizes)
        shape = [count, *(draws.choice(sizes) for _ in range(draws.randrange(4)))]
        kinds = (np.uint8, np.uint8, np.int64, np.float32, np.bool_, "U3", object)
        arrays[f"x_{part}"] = np.zeros(shape, draws.choice(kinds))
        labels = np.array([draws.randrange(-1, 3) for _ in range(count)])
        arrays[f"y_{part}"] = labels.astype(draws.choice(kinds))
    if draws.random() < 0.3:
        del arrays[draws.choice(sorted(arrays))]
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return damaged(file.getvalue(), draws) if draws.random() < 0.5 else file.getvalue()


def damaged(content: bytes, draws: random.Random) -> bytes:
    """Cut short, or with some bytes changed."""
    if draws.random() < 0.3:
        return content[: draws.randrange(len(content) + 1)]
    changed = bytearray(content)
    for _ in range(draws.randrange(1, 5) if changed else 0):
        changed[draws.randrange(len(changed))] = draws.randrange(256)
    return bytes(changed)


def test_any_run_folder(told: Callable[[list[str]], int], finished: Path) -> None:
    names = sorted(path.name for path in finished.iterdir() if path.is_file())

    @settings(fuzz, max_examples=max(1, CASES // 3))
    @given(st.randoms(use_true_random=False), st.sampled_from(names))
    def check(draws: random.Random, name: str) -> None:
        shutil.rmtree("run", ignore_errors=True)
        shutil.rmtree("derived", ignore_errors=True)
        shutil.copytree(finished, "run")
        file = Path("run") / name
        if draws.random() < 0.2:
            file.unlink()
        else:
            file.write_bytes(damaged(file.read_bytes(), draws))
        told(["derive", "run=run", "hydra.run.dir=derived"])

    check()
