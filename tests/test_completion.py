"""What TAB offers, for bash, which splits words at `=`, and for zsh, which does not."""

import pytest

from nas_cli.completion import complete


@pytest.mark.parametrize(
    ("typed", "incomplete", "expected"),
    [
        ([], "str", ["strategy="]),
        ([], "strategy=da", ["strategy=darts"]),
        (["strategy", "="], "da", ["darts"]),
        (["strategy"], "", ["darts", "random"]),
        ([], "strategy=random,da", ["strategy=random,darts"]),
        ([], "recipe.learn", ["recipe.learning_rate="]),
        (["strategy=random"], "strategy.", ["strategy.num_evaluations="]),
    ],
)
def test_completion_offers_groups_options_and_keys(
    typed: list[str], incomplete: str, expected: list[str]
) -> None:
    offered = complete("search", typed, incomplete)
    assert set(expected) <= set(offered)
    assert all("_target_" not in word for word in offered)
