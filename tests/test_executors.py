"""Candidates that are scored side by side: the same search, whatever the number of workers and their fate."""

import itertools
import json
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from loky import ProcessPoolExecutor

from nas_cli.architecture import Architecture
from nas_cli.catalogue import options
from nas_cli.cli import main
from nas_cli.errors import ConfigError, DataError, TrainingError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.executor import Executor
from nas_cli.executors.processes import Processes
from nas_cli.executors.serial import Serial
from nas_cli.sampling import SamplingStrategy
from nas_cli.strategies.evolution import Evolution
from nas_cli.strategies.local_search import LocalSearch
from nas_cli.strategies.nsga2 import Nsga2
from nas_cli.strategies.predictor import Predictor
from nas_cli.strategies.random import RandomSearch
from nas_cli.strategies.rl import ReinforcementLearning
from nas_cli.strategies.successive_halving import SuccessiveHalving
from nas_cli.strategy import Problem
from tests.toy import INFO, WIDE_BEST, CountBest, WideToySpace, toy_problem

LOG = logging.getLogger(__name__)
MAKERS: dict[str, Callable[[Problem], SamplingStrategy]] = {
    "random": partial(RandomSearch, num_evaluations=30),
    "evolution": partial(Evolution, num_evaluations=30),
    "first": partial(LocalSearch, num_evaluations=30, move="first"),
    "best": partial(LocalSearch, num_evaluations=30, move="best"),
    "nsga2": partial(Nsga2, num_evaluations=30, population_size=8, objectives=("score", "parameters")),
    "predictor": partial(Predictor, num_evaluations=30, num_candidates=20),
    "rl": partial(ReinforcementLearning, num_evaluations=30),
    "halving": partial(SuccessiveHalving, num_evaluations=30),
}


class Dying(CountBest):
    """Its process is killed where the file is not there yet, which it leaves first; `always`: each time."""

    def __init__(self, file: Path, *, always: bool = False) -> None:
        super().__init__(WIDE_BEST)
        self.file, self.always = file, always

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        if architecture.picks[0] == 1 and (self.always or not self.file.exists()):
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(architecture, fidelity)


class Refusing(CountBest):
    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        raise TrainingError("The loss is not finite.")


def wide_problem() -> Problem:
    return replace(toy_problem(), space=WideToySpace(INFO))


def count_best() -> CountBest:
    return CountBest(WIDE_BEST)


def searched(
    make_strategy: Callable[[Problem], SamplingStrategy],
    executor: Executor,
    make_evaluator: Callable[[], Evaluator] = count_best,
) -> list[tuple[tuple[int, ...], float]]:
    with executor.scoring(CountBest(WIDE_BEST), make_evaluator, LOG) as evaluator:
        found = make_strategy(wide_problem()).evaluations(evaluator)
        return [(one.architecture.picks, one.evaluation.score) for one in found]


@pytest.mark.parametrize("name", MAKERS)
def test_every_strategy_proposes_ahead_and_scores_as_many(name: str) -> None:
    evaluated = searched(MAKERS[name], Serial(in_flight=7))
    assert len(evaluated) == 30
    assert evaluated == searched(MAKERS[name], Serial(in_flight=7))


def test_the_proposal_sees_all_scores_but_those_in_flight() -> None:
    seen = []

    class Counting(RandomSearch):
        observed = 0

        def propose(self):  # type: ignore[no-untyped-def]
            seen.append((self.observed, self.num_unscored))
            return super().propose()

        def observe(self, architecture: Architecture, evaluation: Evaluation) -> None:
            self.observed += 1

    searched(partial(Counting, num_evaluations=5), Serial(in_flight=3))
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]


def test_the_number_of_workers_changes_nothing() -> None:
    expected = searched(MAKERS["evolution"], Serial(in_flight=4))
    for workers in (1, 3):
        assert searched(MAKERS["evolution"], Processes(workers=workers, in_flight=4)) == expected


def test_a_worker_that_is_killed_is_replaced_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = searched(MAKERS["evolution"], Serial(in_flight=4))
    with caplog.at_level("WARNING"):
        make = partial(Dying, tmp_path / "died")
        assert searched(MAKERS["evolution"], Processes(in_flight=4), make) == expected
    assert "A worker died" in caplog.text


def test_a_death_that_shows_when_work_is_handed_out_is_one_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = searched(MAKERS["evolution"], Serial(in_flight=4))
    submit, calls = ProcessPoolExecutor.submit, itertools.count()

    def refuse_once(pool: ProcessPoolExecutor, *work: object) -> "Future[Evaluation]":
        if next(calls) == 6:
            raise BrokenProcessPool
        answer: Future[Evaluation] = submit(pool, *work)
        return answer

    monkeypatch.setattr(ProcessPoolExecutor, "submit", refuse_once)
    with caplog.at_level("WARNING"):
        assert searched(MAKERS["evolution"], Processes(in_flight=4)) == expected
    assert caplog.text.count("A worker died") == 1


def test_workers_that_always_die_end_the_search(tmp_path: Path) -> None:
    make = partial(Dying, tmp_path / "died", always=True)
    with pytest.raises(TrainingError, match=r"3 workers in a row died .* Lower executor\.workers"):
        searched(MAKERS["random"], Processes(in_flight=4), make)


def test_an_error_in_a_worker_is_told_as_it_is() -> None:
    with pytest.raises(TrainingError, match="The loss is not finite"):
        searched(MAKERS["random"], Processes(in_flight=4), Refusing)


def no_evaluator() -> Evaluator:
    raise DataError("The images are gone.")


def test_an_evaluator_that_cannot_be_made_in_a_worker_is_told_as_it_is() -> None:
    with pytest.raises(DataError, match=r"^The images are gone\.$"):
        searched(MAKERS["random"], Processes(in_flight=4), no_evaluator)


def test_workers_without_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"executor\.in_flight=2 leaves some of executor\.workers=3"):
        Processes(workers=3, in_flight=2)


WORDS = ["strategy=random", "strategy.num_evaluations=3", "evaluator=from_scratch", "evaluator.epochs=1"]
SMALL = ["space=nasbench201", "space.channels=4", "space.num_cells=1", "recipe.steps_per_epoch=2"]


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("name", sorted({*options("executor")} - {"serial"}))
def test_a_search_from_the_command_line_is_the_same_by_workers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "ray":
        pytest.importorskip("ray", reason="ray is not installed (pip install 'nas-cli[ray]')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    expected = history_with("serial")
    assert len(expected) == 3
    assert history_with(name) == expected


def history_with(name: str) -> list[tuple[object, object]]:
    words = [*WORDS, *SMALL, f"executor={name}", "executor.in_flight=2", "preflight=false"]
    assert main(["search", *words, f"hydra.run.dir={name}"]) == 0
    lines = (Path(name) / "history.jsonl").read_text().splitlines()
    return [(json.loads(line)["picks"], json.loads(line)["score"]) for line in lines]


def test_a_supernet_has_no_candidates_to_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", "strategy=darts", "executor=processes"]) == 2
    assert "Darts trains one supernet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
