"""A part of `make faults`: one try of each fault on DARTS or evolution, always the same."""

import random
from pathlib import Path

import pytest

from tests import faults
from tests.faults import (
    OF_ALL,
    OF_CHECKPOINTS,
    OF_HISTORIES,
    Case,
    Fault,
    Line,
    SkippedError,
    table,
    words_of,
)

QUICK = {"a checkpoint is cut in half", "the last line of the history is torn"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: Case.of(words_of(name), folder / name) for name in ("darts", "evolution")}


@pytest.mark.parametrize(
    ("strategy", "fault"),
    [
        pytest.param(strategy, fault, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for strategy, some in (("darts", OF_CHECKPOINTS | OF_ALL), ("evolution", OF_HISTORIES))
        for name, fault in some.items()
    ],
)
def test_nothing_is_lost_by_a_fault(
    strategy: str, fault: Fault, cases: dict[str, Case], tmp_path: Path
) -> None:
    try:
        fault(cases[strategy], tmp_path / "run", random.Random(0))
    except SkippedError as reason:
        pytest.skip(str(reason))


def test_what_differs_is_lost(cases: dict[str, Case]) -> None:
    cases["darts"].compare(cases["darts"].folder)
    with pytest.raises(faults.LostError, match="metrics of"):
        cases["darts"].compare(cases["evolution"].folder)


def test_the_table_tells_what_was_lost_and_what_could_not_be_tried() -> None:
    lines = [Line("kill -9", tries=20), Line("full disk", skipped="only root may mount"), Line("x", 3, 1)]
    assert table(lines).splitlines() == [
        "fault      tries  lost",
        "kill -9       20     0",
        "full disk      0     0  only root may mount",
        "x              3     1",
    ]
