"""Several runs beside each other: groups of equal settings, and whether they differ by more than chance."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nas_cli.architecture import Json
from nas_cli.report.record import RunRecord
from nas_cli.tracker import flatten

NOT_COMPARED = ("seed", "genotype", "weights", "run", "preflight")
"""Settings that may differ within a group: repeats, where a network came from, and what changes no result."""
LEAST = 3
"""Runs a group needs before a test says anything."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seeds alone."""

    name: str
    command: str
    unit: str
    scores: tuple[float, ...]
    runs: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Of the sample (n - 1); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the best group and another: in the score's unit, with its 95 % interval; or why nothing is said."""

    better: str
    other: str
    difference: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.p is None:
            return self.note
        said = "more than chance would give" if self.p < 0.05 else "not told apart from chance"
        return f"{said}{self.note}"


def groups_of(records: Sequence[RunRecord]) -> list[Group]:
    """The best mean first; groups without a score last. Groups of one command stand together."""
    gathered: dict[tuple[str, str], list[RunRecord]] = {}
    for record, name in zip(records, names_of(records), strict=True):
        gathered.setdefault((record.command, name), []).append(record)
    groups = [_group(name, command, runs) for (command, name), runs in gathered.items()]
    return sorted(groups, key=lambda one: (one.command, -one.mean if one.scores else math.inf))


def _group(name: str, command: str, runs: Sequence[RunRecord]) -> Group:
    scores = tuple(run.score for run in runs if run.score is not None)
    return Group(name, command, runs[0].unit, scores, len(runs))


def names_of(records: Sequence[RunRecord]) -> list[str]:
    """What is particular of each run: its settings that differ from another's, its finder for a training.

    Where two runs name different classes in a group of settings, the class stands for all that comes
    with it, and of its settings only those are named that differ between runs of that class.
    """
    settings = [_compared(record) for record in records]
    return [_name(record, own, settings) for record, own in zip(records, settings, strict=True)]


def _compared(record: RunRecord) -> dict[str, str]:
    flat = flatten(dict(record.config))
    kept = {key: value for key, value in flat.items() if key.split(".")[0] not in NOT_COMPARED}
    finder = record.found_by.get("strategy") or record.found_by.get("method")
    return kept | ({"found by": str(finder)} if record.command != "search" and finder else {})


def _name(record: RunRecord, own: dict[str, str], every: Sequence[dict[str, str]]) -> str:
    words = []
    for key, value in own.items():
        group, _, rest = key.partition(".")
        target = f"{group}._target_"
        alike = (
            [other for other in every if other.get(target) == own.get(target)]
            if rest != "_target_"
            else every
        )
        if len({other.get(key) for other in alike}) > 1:
            words.append(f"{group}={value.rsplit('.', 1)[-1]}" if rest == "_target_" else f"{key}={value}")
    return ", ".join(words) or record.command


def differences(groups: Sequence[Group]) -> list[Difference]:
    """The best group of each command against every other one of it. Welch's t-test, corrected by Holm."""
    found: list[Difference] = []
    for command in dict.fromkeys(group.command for group in groups):
        scored = [group for group in groups if group.command == command and group.scores]
        found += _holm([_difference(scored[0], other) for other in scored[1:]])
    return found


def _difference(best: Group, other: Group) -> Difference:
    gap = best.mean - other.mean
    fewest = min(len(best.scores), len(other.scores))
    if fewest < LEAST:
        note = f"too few runs to tell: n = {fewest}, and at least {LEAST} seeds of each are needed"
        return Difference(best.name, other.name, gap, note=note)
    if not best.deviation and not other.deviation:
        return Difference(
            best.name, other.name, gap, note="no spread in either group, so there is nothing to test"
        )
    from scipy.stats import ttest_ind

    test = ttest_ind(best.scores, other.scores, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(
        best.name, other.name, gap, (float(interval.low), float(interval.high)), float(test.pvalue)
    )


def _holm(found: Sequence[Difference]) -> list[Difference]:
    """Holm's correction: the more comparisons, the stronger each has to be."""
    tested = sorted((one for one in found if one.p is not None), key=lambda one: one.p or 0.0)
    corrected, least = {}, 0.0
    for place, one in enumerate(tested):
        least = max(least, min((len(tested) - place) * (one.p or 0.0), 1.0))
        corrected[one.other] = least
    note = f" (p corrected for {len(tested)} comparisons by Holm)" if len(tested) > 1 else ""
    return [
        Difference(
            one.better, one.other, one.difference, one.interval, corrected.get(one.other), one.note or note
        )
        for one in found
    ]


def rows_of(records: Sequence[RunRecord]) -> list[dict[str, Json]]:
    """A row a run, for the table and the CSV."""
    return [
        {
            "group": name,
            "command": record.command,
            "seed": record.config.get("seed"),
            "status": record.status.get("status"),
            "score": record.score,
            "unit": record.unit,
            "parameters": record.result.get("parameters"),
            "multiply_adds": record.result.get("multiply_adds"),
            "seconds": round(record.seconds, 1),
            "folder": str(record.folder),
        }
        for record, name in zip(records, names_of(records), strict=True)
    ]
