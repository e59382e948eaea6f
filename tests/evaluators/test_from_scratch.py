"""Scores by training for a short while."""

from nas_cli.architecture import Architecture
from nas_cli.evaluators.from_scratch import FromScratch
from tests.toy import BEST, toy_problem

WORST = Architecture((0, 0, 0))


def test_the_same_seed_gives_the_same_score() -> None:
    scores = {FromScratch(toy_problem(seed=3)).evaluate(BEST).score for _ in range(2)}
    assert len(scores) == 1


def test_an_earlier_evaluation_does_not_change_a_later_one() -> None:
    evaluator = FromScratch(toy_problem())
    alone = evaluator.evaluate(BEST).score
    evaluator.evaluate(WORST)
    assert evaluator.evaluate(BEST).score == alone


def test_what_sees_the_image_scores_better_than_what_loses_it() -> None:
    evaluator = FromScratch(toy_problem(), epochs=6)
    assert evaluator.evaluate(BEST).score == 100.0
    assert evaluator.evaluate(WORST).score == 50.0


def test_a_fidelity_is_a_number_of_epochs() -> None:
    short, long = FromScratch(toy_problem(), epochs=1), FromScratch(toy_problem(), epochs=6)
    assert short.evaluate(BEST, fidelity=6).score == long.evaluate(BEST).score


def test_the_recipe_of_the_search_is_left_as_it_is() -> None:
    problem = toy_problem(epochs=6)
    FromScratch(problem, epochs=1).evaluate(BEST)
    assert problem.recipe.epochs == 6


def test_a_loss_that_is_not_finite_scores_0_and_says_why() -> None:
    evaluation = FromScratch(toy_problem(learning_rate=1e30, gradient_clip=0.0)).evaluate(BEST)
    assert evaluation.score == 0.0
    assert "Lower recipe.learning_rate" in evaluation.failure
