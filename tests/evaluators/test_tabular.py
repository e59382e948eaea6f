import os
from pathlib import Path

import numpy as np
import pytest

from nas_cli.architecture import GenotypeText
from nas_cli.data import ImageInfo
from nas_cli.errors import ConfigError, DataError, UnsupportedError
from nas_cli.evaluators.tabular import Tabular
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategy import Problem
from tests.toy import toy_problem, toy_run

DATA = Path(os.environ.get("NAS_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
TABLE = DATA / "nasbench201.npz"
INFO = ImageInfo(channels=3, size=32, class_names=("a", "b"), mean=(0.5,) * 3, std=(0.2,) * 3, mirror=True)
SPACE = NasBench201(INFO, num_cells=5, channels=16)

needs_table = pytest.mark.skipif(not TABLE.exists(), reason=f"NAS-Bench-201's table is not at {TABLE}")


def problem(seed: int = 0) -> Problem:
    toy = toy_problem(seed)
    return Problem(SPACE, toy.data, toy.recipe, toy.trainer, toy.supernet, seed)


@needs_table
def test_a_score_is_the_row_of_the_exact_spelling() -> None:
    with np.load(TABLE) as table:
        spelled = str(table["arch"][1].astype(str))
        expected = [float(table[name][1]) for name in ("c10_val12", "c10_test200", "c10_train_seconds200")]
    architecture = SPACE.parse(GenotypeText(spelled))
    evaluator = Tabular(problem(), path=str(TABLE))
    evaluation = evaluator.evaluate(architecture)
    assert evaluation.score == expected[0]
    assert evaluation.seconds == pytest.approx(expected[2] * 12 / 200)
    assert evaluator.report(architecture) == {"test_accuracy": expected[1]}


@needs_table
def test_random_search_under_a_budget_spends_it_and_no_more(tmp_path: Path) -> None:
    evaluator = Tabular(problem(), path=str(TABLE), budget_seconds=2000)
    with toy_run(tmp_path) as run:
        RandomSearch(problem()).search(run, evaluator)
        spent = [float(str(record["seconds"])) for record in run.history()]
    assert 1500 < sum(spent) <= 2000


@needs_table
def test_a_budget_below_one_evaluation_is_refused(tmp_path: Path) -> None:
    evaluator = Tabular(problem(), path=str(TABLE), budget_seconds=1)
    with toy_run(tmp_path) as run, pytest.raises(ConfigError, match="first evaluation alone costs"):
        RandomSearch(problem()).search(run, evaluator)


@needs_table
def test_a_fidelity_that_the_table_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"no column c10_val50.*c10_val12, c10_val200"):
        Tabular(problem(), path=str(TABLE), fidelity=50)


@needs_table
def test_a_table_of_another_space_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="table of another space than ToySpace"):
        Tabular(toy_problem(), path=str(TABLE))


def test_a_missing_or_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Tabular(problem(), path=str(tmp_path / "none.npz"))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="array `arch`"):
        Tabular(problem(), path=str(tmp_path / "other.npz"))
