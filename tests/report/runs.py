"""Run folders made by hand: small, and with whatever a test wants in them."""

from collections.abc import Sequence
from pathlib import Path

from nas_cli.architecture import Json
from nas_cli.run import Run

DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"><rect width="90" height="40"/></svg>'
)
KIND = "nas_cli.strategies.darts.Darts"


def make_search(
    folder: Path,
    *,
    strategy: str = KIND,
    score: float = 90.0,
    seed: int = 0,
    settings: dict[str, Json] | None = None,
    metrics: Sequence[dict[str, Json]] = (),
    history: Sequence[dict[str, Json]] = (),
) -> Path:
    """A finished search; `settings` are further ones of the strategy."""
    config: dict[str, Json] = {
        "space": {"_target_": "nas_cli.spaces.nasbench201.NasBench201", "num_cells": 1, "channels": 4},
        "strategy": {"_target_": strategy, **(settings or {})},
        "dataset": {"_target_": "nas_cli.datasets.digits.Digits"},
        "seed": seed,
    }
    with Run.create(folder, "search", config) as run:
        for line in metrics:
            run.append_metrics(line)
        for line in history:
            run.append_history(line)
        run.write_text("genotype.svg", DRAWING)
        found_by: dict[str, Json] = {"strategy": strategy.rpartition(".")[2], "score": score, "unit": "%"}
        run.write_json("genotype.json", {"format": 1, "space": {}, "choices": {}, "found_by": found_by})
    return folder


def gates_of(share: float) -> list[Json]:
    """One gate of two rows and two candidates."""
    return [[[share, 1 - share], [1 - share, share]]]


NAMES: Json = {"rows": [["normal.0-1", "normal.0-2"]], "candidates": [["skip_connect", "conv"]]}


def make_gradient_search(folder: Path, epochs: int = 3, fall_of_entropy: float = 0.1) -> Path:
    """With curves, gates and skips; the entropy falls by so much an epoch."""
    lines: list[dict[str, Json]] = [
        {
            "epoch": k,
            "train_loss": 2.0 / k,
            "valid_loss": 2.2 / k,
            "valid_accuracy": 50.0 + k,
            "seconds": 0.001,
            "gate_entropy": 1 - fall_of_entropy * k,
            "skip_share_normal": 0.5,
            "gates": gates_of(0.5 + 0.1 * k / epochs),
        }
        for k in range(1, epochs + 1)
    ]
    make_search(folder, metrics=lines)
    Run.open(folder).write_json("gates.json", NAMES)
    return folder
