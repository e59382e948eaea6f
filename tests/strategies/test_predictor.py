from pathlib import Path

import pytest

from nas_cli.cli import main
from nas_cli.evaluator import Evaluation
from nas_cli.evaluators.tabular import Tabular
from nas_cli.strategies.predictor import Predictor
from tests.evaluators.test_tabular import TABLE, needs_table, problem
from tests.evaluators.test_zero_cost import problem as small_problem
from tests.toy import CountBest, toy_problem, toy_run


def test_after_the_first_ones_no_architecture_is_proposed_twice_while_there_are_others() -> None:
    strategy, evaluator = Predictor(toy_problem(), num_initial=5), CountBest()
    while len(strategy.scores) < 5:
        propose_and_observe(strategy, evaluator)
    for _ in range(22):
        propose_and_observe(strategy, evaluator)
    assert len(strategy.scores) == 27


def propose_and_observe(strategy: Predictor, evaluator: CountBest) -> None:
    proposal = strategy.propose()
    assert proposal is not None
    architecture = proposal.architecture
    strategy.observe(architecture, evaluator.evaluate(architecture))


@needs_table
def test_a_hundred_looks_at_the_table_of_15625_find_a_cell_of_the_best_five(tmp_path: Path) -> None:
    evaluator = Tabular(problem(), path=str(TABLE), budget_seconds=12_000)
    with toy_run(tmp_path) as run:
        found = Predictor(problem()).search(run, evaluator)
    assert found.evaluation.score > 84.66


def test_zero_cost_scores_are_features() -> None:
    strategy = Predictor(
        small_problem(images=128), num_initial=5, num_candidates=4, zero_cost=("synflow", "naswot")
    )
    for score in range(6):
        proposal = strategy.propose()
        assert proposal is not None
        strategy.observe(proposal.architecture, Evaluation(float(score), 1.0))
    assert strategy.predictor.widths.keys() - {"picks", "operations", "paths"} == {"synflow", "naswot"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["strategy.num_initial=4"], ["strategy.num_initial=4", "fewer than the 5"]),
        (
            ["strategy.num_evaluations=20", "strategy.num_initial=20"],
            ["strategy.num_evaluations=20", "nothing to propose", "strategy.num_initial=20", "lower"],
        ),
        (["strategy.num_initial=10"], ["strategy.num_evaluations=10", "strategy.num_initial=10"]),
        (["strategy.zero_cost=[synfow]"], ["strategy.zero_cost", "synflow"]),
        (["strategy.zero_cost=[snip]", "dataset.limit=100"], ["a batch of 64 images", "there are 50"]),
    ],
)
def test_a_predictor_without_enough_to_learn_from_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", "strategy=predictor", "space=nasbench201", "recipe=smoke", *words]) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert not list(tmp_path.rglob("history.jsonl"))


def test_a_search_that_ends_before_the_predictor_proposes_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Short(CountBest):
        budget_seconds = 6.0

    with toy_run(tmp_path) as run:
        run.log.propagate = True
        Predictor(toy_problem()).search(run, Short())
    assert "it was a random search" in caplog.text
