"""The score of an architecture by looking it up in a benchmark's table."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from nas_cli.architecture import Architecture
from nas_cli.archives import BROKEN
from nas_cli.errors import ConfigError, DataError, UnsupportedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Count, Positive
from nas_cli.strategy import Problem
from nas_cli.supernet import Supernet

EPOCHS_OF_TABLE = 200


class Tabular(Evaluator):
    """Looks up a file such as `nasbench201.npz` (NAS-Bench-201, arXiv:2001.00326).

    The file holds `arch`, the space's own text form of each architecture, and for a data set d the columns
    `d_val<epochs>` and `d_test<epochs>` (accuracy in percent) and `d_train_seconds200`. The score is the
    validation accuracy at `fidelity` epochs; it costs that share of the 200 epochs' seconds, simulated,
    and a repeat costs it again. The search ends before `budget_seconds` would be exceeded. The test
    accuracy after 200 epochs is reported of the winner and never searched on. `metrics` are columns
    that an evaluation brings besides, as costs, such as `latency_ms_raspi4`. The row is the exact
    spelling: architectures that compute the same function have rows of their own.
    """

    def __init__(
        self,
        problem: Problem,
        supernet: Supernet | None = None,
        *,
        path: str,
        dataset: str = "c10",
        fidelity: Count = 12,
        budget_seconds: Positive | None = None,
        metrics: tuple[str, ...] = (),
    ) -> None:
        self.space = problem.space
        self.table = read_table(path)
        self.dataset = dataset
        self.fidelity = fidelity
        self.budget_seconds = budget_seconds
        self._column("val", fidelity)
        self._column("test", EPOCHS_OF_TABLE)
        self._column("train_seconds", EPOCHS_OF_TABLE)
        self.metrics = metrics
        self._check_metrics()
        self._check_space(path)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        epochs = fidelity or self.fidelity
        row = self.table.rows[self.space.spell(architecture)]
        seconds = self._column("train_seconds", EPOCHS_OF_TABLE)[row]
        metrics = {name: self.table.columns[name][row] for name in self.metrics}
        return Evaluation(self._column("val", epochs)[row], seconds * epochs / EPOCHS_OF_TABLE, metrics)

    def check_fidelity(self, fidelity: int) -> None:
        self._column("val", fidelity)

    def report(self, architecture: Architecture) -> Mapping[str, float]:
        row = self.table.rows[self.space.spell(architecture)]
        return {"test_accuracy": self._column("test", EPOCHS_OF_TABLE)[row]}

    def _column(self, part: str, epochs: int) -> list[float]:
        name = f"{self.dataset}_{part}{epochs}"
        if name not in self.table.columns:
            known = sorted(column for column in self.table.columns if f"_{part}" in column)
            raise ConfigError(
                f"evaluator.dataset={self.dataset}: the table has no column {name}, which a fidelity of "
                f"{epochs} epochs needs. It has {', '.join(known) or f'no {part} columns'}."
            )
        return self.table.columns[name]

    def _check_metrics(self) -> None:
        for name in self.metrics:
            if name not in self.table.columns:
                raise ConfigError(
                    f"evaluator.metrics: the table has no column {name!r}. It has "
                    f"{', '.join(sorted(self.table.columns))}."
                )

    def _check_space(self, path: str) -> None:
        text = self.space.spell(self.space.sample(random.Random(0)))
        if text not in self.table.rows:
            raise UnsupportedError(
                f"evaluator=tabular: {path} has no row for {text!r}, so it is a table of another space than "
                f"{type(self.space).__name__}. For NAS-Bench-201's table use space=nasbench201."
            )


@dataclass(frozen=True, slots=True)
class Table:
    """A benchmark's file in memory: the row of each architecture's spelling, and the columns of numbers."""

    rows: Mapping[str, int]
    columns: Mapping[str, list[float]]


@lru_cache(maxsize=4)
def read_table(path: str) -> Table:
    """Read a table once a process. Raises DataError with what is missing."""
    try:
        with np.load(Path(path), allow_pickle=False) as arrays:
            names = arrays["arch"].astype(str).tolist()
            columns = {
                name: arrays[name].astype(float).tolist()
                for name in arrays.files
                if arrays[name].ndim == 1 and arrays[name].dtype.kind == "f"
            }
    except FileNotFoundError as error:
        raise DataError(
            f"evaluator.path={path}: there is no such file. Give the .npz file of a benchmark's table."
        ) from error
    except (*BROKEN, KeyError) as error:
        raise DataError(
            f"evaluator.path={path} is no benchmark table: an .npz file with the array `arch` and columns "
            f"such as `c10_val12` is needed ({error})."
        ) from error
    return Table({name: row for row, name in enumerate(names)}, columns)
