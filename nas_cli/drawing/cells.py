"""Cells as pictures: nodes in layers, operations on the edges."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from nas_cli.drawing.layout import LINE, Layout, Point, Route, lay_out, text_width
from nas_cli.space import CellGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGIN = 0.25
TITLE = 0.45
FONT = 9
INPUT, INNER, OUTPUT = "#b7e1cd", "#cfe0f5", "#f6d9a8"
# By what the label holds; the first that fits.
EDGE_COLOURS = (
    ("none", "#b0b0b0"),
    ("zero", "#b0b0b0"),
    ("skip", "#7a7a7a"),
    ("identity", "#7a7a7a"),
    ("pool", "#2a7f62"),
    ("", "#2f5d9b"),
)


def draw_cells(cells: Mapping[str, CellGraph]) -> Figure:
    """A figure with one panel a cell: one above the other, or side by side where cells run downwards."""
    from matplotlib.figure import Figure

    layouts = {name: lay_out(cell) for name, cell in cells.items()}
    sizes = [_panel_size(name, layout) for name, layout in layouts.items()]
    beside = any(layout.downwards for layout in layouts.values())
    widths, heights = zip(*sizes, strict=True)
    width, height = (sum(widths), max(heights)) if beside else (max(widths), sum(heights))
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    left = top = 0.0
    for (name, layout), size in zip(layouts.items(), sizes, strict=True):
        _Panel(axes, layout, left, top).draw(name)
        left, top = (left + size[0], top) if beside else (left, top + size[1])
    return figure


def svg_of(cells: Mapping[str, CellGraph]) -> str:
    return to_svg(draw_cells(cells))


def png_of(cells: Mapping[str, CellGraph], dpi: int = 150) -> bytes:
    buffer = io.BytesIO()
    draw_cells(cells).savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """The same figure gives the same bytes: no date, no random names. Text stays text, to be searched."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nas", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _panel_size(name: str, layout: Layout) -> Point:
    width, height = layout.size[:: -1 if layout.downwards else 1]
    return max(width, 1.3 * text_width(name)) + 2 * MARGIN, height + TITLE + MARGIN


class _Panel:
    """Draws one cell at its place in the figure; coordinates are inches from the top left."""

    def __init__(self, axes: Axes, layout: Layout, left: float, top: float) -> None:
        self.axes = axes
        self.layout = layout
        self.left = left
        self.top = top

    def draw(self, name: str) -> None:
        self.axes.text(
            self.left + MARGIN,
            self.top + TITLE / 2,
            name,
            size=FONT + 3,
            weight="bold",
            va="center",
            parse_math=False,
        )
        for route in self.layout.routes:
            self._draw_line(route)
        for route in self.layout.routes:
            if route.label:
                self._draw_label(route)
        for node in self.layout.nodes:
            self._draw_node(node)

    def _at(self, point: Point) -> Point:
        along, across = point
        x, y = (across, along) if self.layout.downwards else (along, across)
        return self.left + MARGIN + x, self.top + TITLE + y

    def _draw_line(self, route: Route) -> None:
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        codes = [Path.MOVETO]
        vertices = [self._at(route.points[0])]
        for index, (start, end) in enumerate(pairwise(route.points)):
            bends = index % 2 == 0
            middle = (start[0] + end[0]) / 2
            corners = [(middle, start[1]), (middle, end[1]), end] if bends else [end]
            vertices += [self._at(corner) for corner in corners]
            codes += [Path.CURVE4] * 3 if bends else [Path.LINETO]
        faint = not route.label or _is_none(route.label)
        self.axes.add_patch(
            FancyArrowPatch(
                path=Path(vertices, codes),
                arrowstyle="-|>,head_length=4,head_width=2",
                linewidth=0.9 if faint else 1.3,
                linestyle=(0, (4, 3)) if _is_none(route.label) else "solid",
                color=_colour(route.label) if route.label else "#b8b8b8",
                shrinkA=0,
                shrinkB=0,
            )
        )

    def _draw_label(self, route: Route) -> None:
        colour = _colour(route.label)
        self._draw_box(route.label_at, (text_width(route.label), LINE), "white", colour, 0.7)
        x, y = self._at(route.label_at)
        text_colour = "#909090" if _is_none(route.label) else "black"
        self.axes.text(
            x,
            y,
            route.label,
            size=FONT,
            color=text_colour,
            ha="center",
            va="center_baseline",
            parse_math=False,
        )

    def _draw_node(self, node: str) -> None:
        at = self.layout.nodes[node]
        self._draw_box(at, self.layout.node_size, self._node_colour(node), "#404040", 0.9)
        x, y = self._at(at)
        self.axes.text(x, y, node, size=FONT, ha="center", va="center_baseline", parse_math=False)

    def _node_colour(self, node: str) -> str:
        if node == self.layout.output:
            return OUTPUT
        return INPUT if node in self.layout.inputs else INNER

    def _draw_box(self, at: Point, size: Point, face: str, edge: str, line: float) -> None:
        from matplotlib.patches import FancyBboxPatch

        x, y = self._at(at)
        self.axes.add_patch(
            FancyBboxPatch(
                (x - size[0] / 2, y - size[1] / 2),
                *size,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=face,
                edgecolor=edge,
                linewidth=line,
            )
        )


def _is_none(label: str) -> bool:
    return label in ("none", "zero")


def _colour(label: str) -> str:
    return next(colour for part, colour in EDGE_COLOURS if part in label)
