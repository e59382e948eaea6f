import random
from pathlib import Path

import pytest

from nas_cli.architecture import GenotypeText
from nas_cli.cli import main
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.evaluators.zero_cost import ZeroCost, rank
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategy import Problem
from tests.toy import INFO, toy_images, toy_problem

SPACE = NasBench201(INFO, num_cells=1, channels=4)
CONVOLUTIONS = SPACE.parse(
    GenotypeText(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
)
NOTHING = SPACE.parse(GenotypeText("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"))


def problem(seed: int = 0, images: int = 64) -> Problem:
    toy = toy_problem(seed)
    return Problem(SPACE, toy_images(images), toy.recipe, toy.trainer, toy.supernet, seed)


def test_a_rank_counts_the_references_that_are_reached() -> None:
    assert [rank(score, [10.0, 20.0, 20.0, 40.0]) for score in (10, 20, 40)] == [1, 3, 4]


def test_a_rank_is_interpolated_between_references_and_bounded_beyond_them() -> None:
    references = [10.0, 20.0, 40.0]
    assert [rank(score, references) for score in (15, 30)] == [1.5, 2.5]
    assert [rank(score, references) for score in (70, -20, 1e12)] == pytest.approx([3.5, 0.5, 4.0])


def test_the_rank_among_equal_references_is_told_by_the_side() -> None:
    assert [rank(score, [5.0, 5.0]) for score in (4, 5, 6)] == [0.5, 2, 2.5]


@pytest.mark.parametrize("score", ["synflow", "naswot", "grad_norm", "snip"])
def test_a_single_score_is_computed_alone(score: str) -> None:
    evaluation = ZeroCost(problem(), score=score, batch_size=16).evaluate(CONVOLUTIONS)  # type: ignore[arg-type]
    assert evaluation.metrics == {score: evaluation.score}


def test_the_rank_sum_keeps_all_four_scores_in_the_metrics() -> None:
    evaluation = ZeroCost(problem(), batch_size=16, num_references=4).evaluate(CONVOLUTIONS)
    assert list(evaluation.metrics) == ["synflow", "naswot", "grad_norm", "snip", "rank_sum"]
    assert evaluation.score == evaluation.metrics["rank_sum"]


def test_cells_of_convolutions_rank_above_cells_without_a_path() -> None:
    evaluator = ZeroCost(problem(), batch_size=16, num_references=4)
    assert evaluator.evaluate(CONVOLUTIONS).score > evaluator.evaluate(NOTHING).score


def test_a_score_does_not_depend_on_what_was_evaluated_before() -> None:
    first, second = (ZeroCost(problem(seed=1), batch_size=16, num_references=3) for _ in range(2))
    for _ in range(2):
        first.evaluate(SPACE.sample(random.Random(0)))
    assert first.evaluate(CONVOLUTIONS).metrics == second.evaluate(CONVOLUTIONS).metrics


def test_another_seed_gives_other_weights() -> None:
    scores = [ZeroCost(problem(seed), score="snip", batch_size=16).evaluate(CONVOLUTIONS) for seed in (0, 1)]
    assert scores[0].score != scores[1].score


def test_a_fidelity_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="after 3 epochs"):
        ZeroCost(problem(), score="snip", batch_size=16).evaluate(CONVOLUTIONS, fidelity=3)


def test_a_batch_of_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a batch of 33 images, and there are 32 .*evaluator.batch_size"):
        ZeroCost(problem(), batch_size=33)


def test_a_search_tells_its_score_without_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "recipe=smoke"]
    naswot = ["evaluator=zero_cost", "evaluator.score=naswot"]
    assert main(["search", *small, *naswot, "strategy=random", "strategy.num_evaluations=2"]) == 0
    assert "%" not in next(line for line in capsys.readouterr().out.splitlines() if "score" in line)
