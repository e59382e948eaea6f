"""`nas latency`: measure a space's candidates on this machine, and how well their sums predict networks."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from scipy.stats import spearmanr

from nas_cli.architecture import Architecture, Json
from nas_cli.commands.setup import conditions_of, plain
from nas_cli.config import build
from nas_cli.data import Dataset
from nas_cli.latency import LatencyTable, measure_table
from nas_cli.progress import duration, print_table
from nas_cli.run import Run
from nas_cli.space import SearchSpace
from nas_cli.timing import Timing


def run(config: DictConfig, folder: Path) -> None:
    """Write latency.json, and check.json with the prediction of networks it was not made from."""
    info = build(Dataset, config.dataset).describe()
    space = build(SearchSpace, config.space, info)
    conditions = conditions_of(config)
    run = Run.create(folder, "latency", plain(config))
    with run:
        table, timings = measure_table(space, info, conditions, num_checks=config.checks, seed=config.seed)
        check = Check.of(table, space, timings)
        run.write_text("latency.json", table.to_json())
        run.write_json("check.json", check.to_json())
    least, most = min(check.measured), max(check.measured)
    print_table(
        "latency",
        {
            "measured on": conditions.text,
            "networks": f"{len(check.measured)}, of {least:.2f} to {most:.2f} ms",
            "rank correlation": f"{check.rank_correlation:.3f} of predicted and measured",
            "mean error": f"{check.mean_error:.1%} of the measured",
            "other work": f"made the middle round {check.spread:.0%} slower than the quickest, which counts",
            "time": duration(run.seconds),
            "file": str(run.path("latency.json")),
        },
    )


@dataclass(frozen=True, slots=True)
class Check:
    """Predicted and measured milliseconds of some architectures: the quickest of many rounds.

    `spread`: how much slower the middle round was than the quickest, as a share, in the mean over the
    networks; what other work on the machine cost.
    """

    predicted: list[float]
    measured: list[float]
    spread: float

    @staticmethod
    def of(table: LatencyTable, space: SearchSpace, timings: Mapping[Architecture, Timing]) -> "Check":
        predict = table.predictor(space)
        return Check(
            [predict(architecture) for architecture in timings],
            [timing.quickest for timing in timings.values()],
            statistics.mean(timing.median / timing.quickest - 1.0 for timing in timings.values()),
        )

    @property
    def rank_correlation(self) -> float:
        """Spearman's."""
        return float(spearmanr(self.predicted, self.measured).statistic)

    @property
    def mean_error(self) -> float:
        pairs = zip(self.predicted, self.measured, strict=True)
        return statistics.mean(abs(predicted - real) / real for predicted, real in pairs)

    def to_json(self) -> dict[str, Json]:
        return {
            "rank_correlation": self.rank_correlation,
            "mean_error": self.mean_error,
            "spread": self.spread,
            "predicted_ms": [*self.predicted],
            "measured_ms": [*self.measured],
        }
