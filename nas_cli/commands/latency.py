"""`nas latency`: measure a space's candidates on this machine, and how well their sums predict networks."""

import random
import statistics
from pathlib import Path

import torch
from omegaconf import DictConfig
from scipy.stats import spearmanr

from nas_cli.architecture import Json
from nas_cli.commands.setup import plain
from nas_cli.config import build
from nas_cli.data import Dataset, ImageInfo
from nas_cli.latency import Conditions, LatencyTable, measure_networks, measure_table
from nas_cli.progress import duration, print_table
from nas_cli.run import Run
from nas_cli.run.environment import gpu_name, processor_name
from nas_cli.space import SearchSpace
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer


def run(config: DictConfig, folder: Path) -> None:
    """Write latency.json, and check.json with the prediction of networks it was not made from."""
    info = build(Dataset, config.dataset).describe()
    space = build(SearchSpace, config.space, info)
    conditions = _conditions(config)
    run = Run.create(folder, "latency", plain(config))
    with run:
        table = measure_table(space, info, conditions)
        run.write_text("latency.json", table.to_json())
        predicted, measured = _check(table, space, info, config.checks, config.seed)
        correlation = float(spearmanr(predicted, measured).statistic)
        error = statistics.mean(abs(p - m) / m for p, m in zip(predicted, measured, strict=True))
        figures: dict[str, Json] = {"rank_correlation": correlation, "mean_error": error}
        run.write_json("check.json", {**figures, "predicted_ms": [*predicted], "measured_ms": [*measured]})
    print_table(
        "latency",
        {
            "measured on": conditions.text,
            "networks": f"{min(measured):.2f} to {max(measured):.2f} ms ({config.checks} sampled ones)",
            "rank correlation": f"{correlation:.3f} of predicted and measured",
            "mean error": f"{error:.1%} of the measured",
            "time": duration(run.seconds),
            "file": str(run.path("latency.json")),
        },
    )


def _conditions(config: DictConfig) -> Conditions:
    device = build(Trainer, config.trainer).device.type
    processor = gpu_name() if device == "cuda" else processor_name()
    return Conditions(processor or device, device, config.threads, config.batch_size)


def _check(
    table: LatencyTable, space: SearchSpace, info: ImageInfo, count: int, seed: int
) -> tuple[list[float], list[float]]:
    """Predicted and measured milliseconds of some architectures."""
    rng = random.Random(seed + 1)
    architectures = [space.sample(rng) for _ in range(count)]
    with torch.device("meta"):
        supernet = space.build_supernet(SupernetOptions(form="side_by_side"))
    predicted = [table.predict(supernet.gates_of(architecture)) for architecture in architectures]
    return predicted, measure_networks(space, info, architectures, table.conditions)
