"""The metrics of a run as curves over its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas_cli.architecture import Json
from nas_cli.drawing.cells import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f5d9b", "#c8553d", "#2a7f62", "#8a5fa8")
# Each panel shows the records whose name has this word in it.
PANELS = ("loss", "accuracy")


def curves_svg(metrics: Sequence[Mapping[str, Json]]) -> str:
    """Small multiples side by side: every loss in one panel, every accuracy in the other, over the epochs.

    A metric is drawn where its name holds `loss` or `accuracy`. Values that are missing or null leave a gap.
    """
    return to_svg(_figure(metrics))


def _figure(metrics: Sequence[Mapping[str, Json]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), facecolor="white", layout="constrained")
    for index, word in enumerate(PANELS):
        axes = figure.add_subplot(1, len(PANELS), index + 1)
        _draw_panel(axes, word, metrics)
    return figure


def _draw_panel(axes: Axes, word: str, metrics: Sequence[Mapping[str, Json]]) -> None:
    epochs = [_number(record.get("epoch", index)) for index, record in enumerate(metrics)]
    names = list(dict.fromkeys(name for record in metrics for name in record if word in name))
    for index, name in enumerate(names):
        values = [_number(record.get(name)) for record in metrics]
        axes.plot(
            epochs,
            values,
            label=name.replace("_", " "),
            color=COLOURS[index % len(COLOURS)],
            linestyle="-" if index < len(COLOURS) else "--",
            linewidth=1.6,
            marker="o" if len(metrics) <= 20 else "",
            markersize=3.5,
        )
    _label_panel(axes, word, len(names))


def _label_panel(axes: Axes, word: str, num_curves: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(word, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    if num_curves:
        axes.legend(fontsize=8, frameon=False)


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
