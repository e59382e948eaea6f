"""Which charts a run gets, from what its folder holds."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

from markupsafe import Markup

from nas_cli.report.chart import KINDS, Series, Shades, bar_chart, heat_map, line_chart, scatter_chart
from nas_cli.report.costs import Priced, priced_history
from nas_cli.report.record import Record, RunRecord, number
from nas_cli.report.story import seconds_told, time_parts

MOST_COLUMNS = 60


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with the words below it; `wide` ones take the whole width of the page."""

    drawing: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """`folded` figures are hidden until they are asked for."""

    title: str
    text: str
    figures: list[Figure]
    folded: list[Figure]
    folded_title: str = ""


def sections(record: RunRecord) -> list[Section]:
    """Those that have something to show, in the order of the page."""
    every = [_cells(record), _curves(record), _gates(record), _history(record), _time(record)]
    return [section for section in every if section.figures]


def _cells(record: RunRecord) -> Section:
    """The drawings of the run as pictures: a picture runs no script, whatever its labels say."""
    files = sorted(record.folder.glob("genotype*.svg"), key=lambda file: (len(file.name), file.name))
    figures = [
        Figure(_picture(file.read_bytes(), f"cells {k}"), _place(k, len(files)), wide=True)
        for k, file in enumerate(files, start=1)
    ]
    return Section(
        "The network", "Boxes are states of the network, labels the operations between them.", figures, []
    )


def _place(k: int, count: int) -> str:
    return "What was found." if count == 1 else f"Place {k} of {count}."


def _picture(svg: bytes, name: str) -> Markup:
    data = base64.b64encode(svg).decode()
    return Markup('<img class="cells" src="data:image/svg+xml;base64,{}" alt="{}">').format(data, name)


def _curves(record: RunRecord) -> Section:
    figures = []
    for word, unit, text in (
        ("loss", "loss (nats)", "Loss: how wrong the network is; lower is better."),
        ("accuracy", "accuracy (%)", "Accuracy: how many images of a hundred are named right."),
    ):
        if series := _series(record.metrics, word):
            figures.append(Figure(line_chart(word, "epoch", unit, series), text))
    figures += [
        Figure(line_chart(name, "epoch", label, [Series(label, points)]), text)
        for name, label, text in (
            ("learning_rate", "learning rate", "How far each step moves the weights."),
            (
                "gate_entropy",
                "entropy",
                "How undecided the gates are: 1 is undecided, 0 is one candidate each.",
            ),
        )
        if (points := _points(record.metrics, name))
    ]
    return Section("Curves", "One point an epoch: one pass over the images of its part.", figures, [])


def _series(metrics: Sequence[Record], word: str) -> list[Series]:
    """The validation first: it is what counts."""
    names = list(dict.fromkeys(name for line in metrics for name in line if word in name))
    names.sort(key=lambda name: name.startswith("train"))
    kinds = [KINDS[k % len(KINDS)] for k in range(len(names))]
    return [
        Series(name.replace("_", " "), _points(metrics, name), kind)
        for name, kind in zip(names, kinds, strict=True)
        if _points(metrics, name)
    ]


def _points(metrics: Sequence[Record], name: str) -> list[tuple[float, float]]:
    """(epoch, value); not a number where an epoch has none. Empty where no epoch has one."""
    values = [number(line.get(name)) for line in metrics]
    if all(value is None for value in values):
        return []
    epochs = [number(line.get("epoch")) or k for k, line in enumerate(metrics, start=1)]
    return [(e, math.nan if value is None else value) for e, value in zip(epochs, values, strict=True)]


@dataclass(frozen=True)
class _GateLog:
    """The gates of some epochs: `weights[epoch][gate][row][candidate]`, and what they are of."""

    rows: list[list[str]]
    candidates: list[list[str]]
    epochs: list[str]
    weights: list[list[list[list[float]]]]

    @classmethod
    def read(cls, record: RunRecord) -> Self | None:
        """None where the run has learned no gates."""
        names, lines = record.json("gates.json"), [line for line in record.metrics if "gates" in line]
        if not names or not lines:
            return None
        shown = [lines[k] for k in _columns(len(lines))]
        return cls(
            cast(list[list[str]], names["rows"]),
            cast(list[list[str]], names["candidates"]),
            [str(line.get("epoch")) for line in shown],
            [cast(list[list[list[float]]], line["gates"]) for line in shown],
        )

    def kinds(self) -> dict[tuple[str, tuple[str, ...]], list[tuple[int, int]]]:
        """{(kind, candidates): its (gate, row)}; the kind is what stands before the point of a row's name."""
        found: dict[tuple[str, tuple[str, ...]], list[tuple[int, int]]] = {}
        for gate, names in enumerate(self.rows):
            for row, name in enumerate(names):
                if len(self.candidates[gate]) > 1:
                    found.setdefault((name.split(".")[0], tuple(self.candidates[gate])), []).append(
                        (gate, row)
                    )
        return found

    def shades(self, candidates: Sequence[str], places: Sequence[tuple[int, int]]) -> Shades:
        """The mean over some places."""
        means = [
            [sum(epoch[gate][row][k] for gate, row in places) / len(places) for epoch in self.weights]
            for k in range(len(candidates))
        ]
        top = max((weight for line in means for weight in line), default=0.0)
        return Shades(candidates, self.epochs, means, top or 1.0)


def _gates(record: RunRecord) -> Section:
    """The mean over the places of each kind large, every place small; and the share of skips."""
    log, figures, folded, text = _GateLog.read(record), _skips(record), [], ""
    if log is not None:
        kinds = log.kinds().items()
        figures = [*(_mean_gates(log, *kind, places) for kind, places in kinds), *figures]
        folded = [_one_gate(log, kind[1], at) for kind, places in kinds if len(places) > 1 for at in places]
        text = (
            "How strongly each candidate operation counts, epoch by epoch: the fuller the colour, the more."
        )
    return Section("How it decided", text, figures, folded, "Every place by itself, its rows as above")


def _mean_gates(
    log: _GateLog, kind: str, candidates: Sequence[str], places: Sequence[tuple[int, int]]
) -> Figure:
    title, shades = f"{kind}: mean weight of each candidate", log.shades(candidates, places)
    of = f"{title}, over {len(places)} places" if len(places) > 1 else kind
    return Figure(heat_map(title, "epoch", shades, labelled=True), f"{of}; full colour is {shades.top:.2f}.")


def _one_gate(log: _GateLog, candidates: Sequence[str], place: tuple[int, int]) -> Figure:
    name = log.rows[place[0]][place[1]].replace(".", " ")
    shades = log.shades(candidates, [place])
    return Figure(heat_map(name, "epoch", shades, labelled=False), f"{name}: up to {shades.top:.2f}")


def _skips(record: RunRecord) -> list[Figure]:
    names = list(dict.fromkeys(n for line in record.metrics for n in line if n.startswith("skip_share_")))
    series = [
        Series(
            name.removeprefix("skip_share_"), [(e, 100 * v) for e, v in _points(record.metrics, name)], kind
        )
        for name, kind in zip(names, KINDS, strict=False)
    ]
    text = "Share of skip connections in what the search would derive; above half, it has collapsed."
    return [Figure(line_chart("skip connections", "epoch", "skips (%)", series), text)] if series else []


def _columns(count: int) -> list[int]:
    """At most MOST_COLUMNS epochs, the first and the last among them."""
    shown = min(count, MOST_COLUMNS)
    return [round(k * (count - 1) / max(shown - 1, 1)) for k in range(shown)]


def _history(record: RunRecord) -> Section:
    scores = [(float(k), number(line.get("score"))) for k, line in enumerate(record.history, start=1)]
    points = [(k, score) for k, score in scores if score is not None]
    if not points:
        return Section("", "", [], [])
    best = [(k, max(score for _, score in points[: place + 1])) for place, (k, _) in enumerate(points)]
    label = f"score ({record.unit})" if record.unit else "score"
    series = [Series("best so far", best, "strong"), Series("each evaluation", points, "quiet points")]
    text = f"{len(points)} networks were scored, one after the other."
    figures = [Figure(line_chart("score of each evaluation", "evaluation", label, series), text)]
    name, priced = priced_history(record)
    if len(priced) > 1:
        figures.append(_cost_figure(name.replace("_", " "), label, priced, len(points)))
    return Section("What was tried", "", figures, [])


def _cost_figure(name: str, label: str, priced: Sequence[Priced], count: int) -> Figure:
    front = Series("Pareto front", [(one.cost, one.score) for one in pareto_front(priced)], "strong")
    dots = [
        ((one.cost, one.score), f"{label} {one.score:.4g}, {one.cost:,.6g} {name}, evaluation {one.place}")
        for one in priced
    ]
    shown = "" if len(priced) == count else f" {len(priced)} of {count} evaluations are drawn."
    text = f"On the front no other network is both cheaper and better.{shown}"
    return Figure(
        scatter_chart(f"{label} against {name}", name, label, dots, front),
        text,
    )


def pareto_front(priced: Sequence[Priced]) -> list[Priced]:
    """From the cheapest to the dearest, each better than all cheaper ones."""
    front: list[Priced] = []
    for one in sorted(priced, key=lambda one: (one.cost, -one.score)):
        if not front or one.score > front[-1].score:
            front.append(one)
    return front


def _time(record: RunRecord) -> Section:
    parts = time_parts(record)
    figures = [
        Figure(
            bar_chart("time", [(n, s, _share(s, record.seconds)) for n, s in parts]),
            "Seconds of this machine's clock.",
        )
    ]
    if len(points := _points(record.metrics, "seconds")) > 1:
        chart = line_chart("seconds an epoch", "epoch", "seconds", [Series("seconds an epoch", points)])
        figures.append(Figure(chart, "How long each epoch took."))
    return Section("Where the time went", "", figures if parts else [], [])


def _share(seconds: float, total: float) -> str:
    return f"{seconds_told(seconds)} ({seconds / total:.0%})" if total else seconds_told(seconds)
