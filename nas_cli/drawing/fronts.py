"""What a search has scored over what it costs, and the Pareto front of it."""

from __future__ import annotations

from collections.abc import Sequence

from nas_cli.drawing.cells import to_svg

Point = tuple[float, float]
"""Cost and score."""


def front_svg(scored: Sequence[Point], front: Sequence[Point], cost: str) -> str:
    """All points, and the front as the steps that it is: between two of its networks there is none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    costs, scores = zip(*scored, strict=True)
    axes.scatter(costs, scores, s=12, color="#b0b0b0", label="scored")
    costs, scores = zip(*sorted(front), strict=True)
    axes.step(costs, scores, where="post", color="#2f5d9b", linewidth=1.2)
    axes.scatter(costs, scores, s=22, color="#2f5d9b", label="front", zorder=3)
    axes.set_xlabel(cost.replace("_", " "), fontsize=9)
    axes.set_ylabel("score", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return to_svg(figure)
