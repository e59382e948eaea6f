"""Charts as inline SVG: no script, colours from the page's style sheet, a tooltip by `title`.

All text that comes from outside goes through `Markup.format`, which escapes it. A chart is 420 units wide, so
that its letters are readable where a phone draws it 340 pixels wide.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 30.0, 40.0
LETTER = 6.6
"""How wide a letter beside an axis is."""
MOST_MARKS = 60
UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
"""From which value on ticks are written in which unit, and its letter."""
LEVELS = 20
"""How many shades a heat map has."""


@dataclass(frozen=True, slots=True)
class Series:
    """`kind` is a class of the style sheet: strong, quiet, strong dashed, quiet dashed."""

    name: str
    points: Sequence[Point]
    kind: str = "strong"


KINDS = ("strong", "quiet", "strong dashed", "quiet dashed")


@dataclass(frozen=True, slots=True)
class Shades:
    """A heat map: `values[row][column]` from 0 (blank) to `top` (full colour)."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    top: float


@dataclass(frozen=True)
class Axis:
    """From data to units of the picture."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[tuple[float, str]] = field(init=False)
    """The values that are marked, and what is written there."""

    def __post_init__(self) -> None:
        values = round_steps(self.low, self.high)
        object.__setattr__(self, "ticks", list(zip(values, tick_labels(values), strict=True)))

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def round_steps(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(k * step for k in range(first, last + 1))


def tick_labels(values: Sequence[float]) -> list[str]:
    """1.2M, 34k, 0.05: one unit for all, and as many decimals as tell two neighbours apart."""
    most = max(map(abs, values), default=0.0)
    unit, letter = next(one[1:] for one in UNITS if most >= one[0])
    step = (values[1] - values[0]) / unit if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value / unit:.{decimals}f}{letter}" if value else "0" for value in values]


def line_chart(title: str, x: str, y: str, series: Sequence[Series], marks: str = "") -> Markup:
    """Lines over a common x; values that are no finite number leave a gap."""
    axes = _axes(x, y, [point for one in series for point in one.points])
    drawn = [_line(one, axes, marks or one.name) for one in series]
    return _svg(title, [_frame(*axes), _legend(series), *drawn])


def scatter_chart(title: str, x: str, y: str, points: Sequence[tuple[Point, str]], front: Series) -> Markup:
    """Points with their tooltips, and a front as steps through its points."""
    axes = _axes(x, y, [point for point, _ in points] + list(front.points))
    dots = [_dot(point, axes, "quiet", text) for point, text in points]
    best = [_dot(point, axes, "strong", f"{front.name}: {point[1]:.4g}") for point in front.points]
    legend = _legend([Series("every network", (), "quiet"), front])
    return _svg(title, [_frame(*axes), legend, *dots, _path(_steps(front.points), axes, "strong"), *best])


def strip_chart(title: str, x: str, groups: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """A line a group: each of its values a point, their mean a bar."""
    values = [value for _, group in groups for value in group]
    step, bottom = 44.0, 44.0 * len(groups) + 6
    axis = Axis(x, *_wide(min(values), max(values), 0.06), 8.0, WIDTH - RIGHT)
    parts = [_text(axis(value), bottom + 16, label, "middle") for value, label in axis.ticks]
    parts.append(_text((8.0 + WIDTH - RIGHT) / 2, bottom + 33, x, "middle", "label"))
    for k, (name, group) in enumerate(groups):
        line = step * k + 32
        rule = Markup('<line class="rule" x1="8" x2="{}" y1="{}" y2="{}"/>').format(WIDTH - RIGHT, line, line)
        at, mean = axis(sum(group) / len(group)), sum(group) / len(group)
        bar = Markup('<line class="line" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line>')
        parts += [_text(8, line - 14, name, "start", "label"), rule]
        parts += [_mark(axis(value), line, "quiet", f"{name}: {value:.4g}") for value in group]
        parts.append(bar.format(at, at, line - 8, line + 8, f"{name}, mean: {mean:.4g}"))
    return _svg(title, parts, bottom + BOTTOM)


def _steps(points: Sequence[Point]) -> list[Point]:
    """Through the points from left to right, each value kept until the next."""
    corners = list(points[:1])
    for point in points[1:]:
        corners += [(point[0], corners[-1][1]), point]
    return corners


def heat_map(title: str, x: str, shades: Shades, *, labelled: bool) -> Markup:
    """With labels, rows and columns have names, and each column a tooltip; else it is small and plain."""
    rows, columns = shades.rows, shades.columns
    left, line = (8.0 + LETTER * max(map(len, rows)), 18.0) if labelled else (2.0, 9.0)
    above, right = (6.0, WIDTH - RIGHT) if labelled else (2.0, WIDTH - 2.0)
    height, step = line * len(rows), (right - left) / len(columns)
    levels = _levels(shades.values, shades.top)
    parts = [_shade(level, cells, (left, above), (step, line)) for level, cells in levels.items()]
    frame = Markup('<rect class="frame" x="{}" y="{}" width="{:.1f}" height="{}"/>')
    parts.append(frame.format(left, above, right - left, height))
    if labelled:
        parts += [_text(left - 6, above + line * (k + 0.5) + 4, name, "end") for k, name in enumerate(rows)]
        parts += _column_marks(columns, (left, above + height), step, x)
        parts += [_column(shades, k, (left + k * step, above), (step, height)) for k in range(len(columns))]
    return _svg(title, parts, above + height + (BOTTOM if labelled else 2.0))


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]]) -> Markup:
    """One bar a line: its name, its value, and the value as it is told."""
    longest = max((value for _, value, _ in bars), default=0.0) or 1.0
    line, parts = 40.0, []
    for k, (name, value, text) in enumerate(bars):
        width = max((WIDTH - 4) * value / longest, 1.0)
        parts.append(_text(2, line * k + 13, f"{name}: {text}", "start"))
        bar = Markup(
            '<rect class="bar" x="2" y="{}" width="{:.1f}" height="12" rx="2"><title>{}</title></rect>'
        )
        parts.append(bar.format(line * k + 19, width, f"{name}: {text}"))
    return _svg(title, parts, line * len(bars))


def _axes(x: str, y: str, points: Iterable[Point]) -> tuple[Axis, Axis]:
    finite = [point for point in points if all(map(math.isfinite, point))]
    xs, ys = ([point[k] for point in finite] or [0.0] for k in (0, 1))
    upward = Axis(y, *_wide(min(ys), max(ys), 0.06), HEIGHT - BOTTOM, TOP)
    beside = 24.0 + LETTER * max(len(label) for _, label in upward.ticks)
    return Axis(x, *_wide(min(xs), max(xs), 0.0), max(LEFT, beside), WIDTH - RIGHT), upward


def _wide(low: float, high: float, margin: float) -> Point:
    """A span that is not empty, with a margin."""
    room = (high - low) * margin or (abs(low) * 0.1 or 1.0 if high == low else 0.0)
    return low - room, high + room


def _svg(title: str, parts: Iterable[Markup], height: float = HEIGHT) -> Markup:
    start = Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">')
    return start.format(WIDTH, round(height, 1), title) + Markup("").join(parts) + Markup("</svg>")


def _frame(x: Axis, y: Axis) -> Markup:
    parts = []
    for value, label in y.ticks:
        rule = Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(rule.format(x.start, WIDTH - RIGHT, y(value), y(value)))
        parts.append(_text(x.start - 6, y(value) + 4, label, "end"))
    parts += [_text(x(value), HEIGHT - BOTTOM + 18, label, "middle") for value, label in x.ticks]
    parts.append(_text((x.start + WIDTH - RIGHT) / 2, HEIGHT - 6, x.label, "middle", "label"))
    turned = Markup(
        '<text class="label" text-anchor="middle" transform="translate(13 {}) rotate(-90)">{}</text>'
    )
    parts.append(turned.format((TOP + HEIGHT - BOTTOM) / 2, y.label))
    return Markup("").join(parts)


def _legend(series: Sequence[Series]) -> Markup:
    parts, left = [], LEFT
    for one in series:
        key = Markup('<line class="line {}" x1="{:.1f}" x2="{:.1f}" y1="14" y2="14"/>')
        parts += [key.format(one.kind, left, left + 16), _text(left + 21, 18, one.name, "start", "label")]
        left += 34 + 6.4 * len(one.name)
    return Markup("").join(parts)


def _line(series: Series, axes: tuple[Axis, Axis], name: str) -> Markup:
    finite = [point for point in series.points if all(map(math.isfinite, point))]
    every = math.ceil(len(finite) / MOST_MARKS) or 1
    texts = [(point, f"{name}: {point[1]:.4g} ({axes[0].label} {point[0]:g})") for point in finite[::every]]
    dots = [_dot(point, axes, series.kind, text) for point, text in texts]
    return _path(series.points, axes, series.kind) + Markup("").join(dots)


def _path(points: Sequence[Point], axes: tuple[Axis, Axis], kind: str) -> Markup:
    steps, pen = [], "M"
    for point in points:
        if all(map(math.isfinite, point)):
            steps.append(f"{pen}{axes[0](point[0])} {axes[1](point[1])}")
            pen = "L"
        else:
            pen = "M"
    return Markup('<path class="line {}" d="{}"/>').format(kind, "".join(steps)) if steps else Markup("")


def _dot(point: Point, axes: tuple[Axis, Axis], kind: str, text: str = "") -> Markup:
    return _mark(axes[0](point[0]), axes[1](point[1]), kind, text)


def _mark(x: float, y: float, kind: str, text: str) -> Markup:
    title = Markup("<title>{}</title>").format(text) if text else ""
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.6">{}</circle>').format(kind, x, y, title)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, text
    )


def _levels(values: Sequence[Sequence[float]], top: float) -> dict[int, list[tuple[int, int]]]:
    """{shade: its (row, column) cells}: a path a shade is a tenth of the size of a rectangle a cell."""
    cells: dict[int, list[tuple[int, int]]] = {}
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if level := round(LEVELS * min(max(value / top, 0.0), 1.0)):
                cells.setdefault(level, []).append((row, column))
    return cells


def _shade(level: int, cells: Iterable[tuple[int, int]], corner: Point, size: Point) -> Markup:
    box = f"h{size[0]:.1f}v{size[1]:g}h{-size[0]:.1f}z"
    places = (
        f"M{corner[0] + column * size[0]:.1f} {corner[1] + row * size[1]:g}{box}" for row, column in cells
    )
    return Markup('<path class="heat" fill-opacity="{:.2f}" d="{}"/>').format(level / LEVELS, "".join(places))


def _column_marks(columns: Sequence[str], corner: Point, step: float, label: str) -> list[Markup]:
    every = math.ceil(len(columns) / 8) or 1
    marks = [
        _text(corner[0] + (k + 0.5) * step, corner[1] + 16, columns[k], "middle")
        for k in range(0, len(columns), every)
    ]
    return [*marks, _text((corner[0] + WIDTH - RIGHT) / 2, corner[1] + 33, label, "middle", "label")]


def _column(shades: Shades, k: int, corner: Point, size: Point) -> Markup:
    """What a pointer over a column is told."""
    lines = [f"{row}: {values[k]:.3f}" for row, values in zip(shades.rows, shades.values, strict=True)]
    cell = Markup('<rect class="touch" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
    return cell.format(*corner, *size, "\n".join([shades.columns[k], *lines]))
