"""`nas predict`: the classes of images, by a retrained network; prints and leaves no folder."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from nas_cli.config import build
from nas_cli.data import ImageInfo
from nas_cli.datasets.image_files import MODES, attempt_each, decode, images_in, read_header
from nas_cli.errors import DataError
from nas_cli.model import TrainedNetwork, load_model
from nas_cli.progress import print_table
from nas_cli.trainer import Trainer

NUM_THREADS = 4
TOLD = 10
COLOURS = {1: "grey", 3: "in colour", 4: "with transparency"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of an image, in descending order."""

    image: Path
    classes: tuple[tuple[str, float], ...]


def run(config: DictConfig, *, images: Sequence[Path], form: str) -> None:
    """Classify the images, and those in folders. What cannot be is told after the others: DataError."""
    trained = load_model(Path(config.run))
    if trained.info.channels not in MODES:
        raise DataError(
            f"The network takes images of {trained.info.channels} channels, which no image file has. "
            "Use it from Python: nas_cli.load(run).predict(pixels)."
        )
    trainer = build(Trainer, config.trainer)
    failures: list[DataError] = []
    read = partial(_read, info=trained.info, convert=config.convert)
    readable = _readable(attempt_each(read, _files(images), NUM_THREADS), failures)
    FORMS[form](_predictions(trained, trainer, readable, config.batch_size, config.top))
    if failures:
        raise DataError(_told(failures))


def _files(given: Sequence[Path]) -> list[Path]:
    """Those given, and all in the folders given, in order."""
    found: list[Path] = []
    for path in given:
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no images. Give another folder, or the files themselves.")
        found += inside
    return found


def _read(path: Path, info: ImageInfo, *, convert: bool) -> tuple[Path, Tensor]:
    """Pixels uint8 (channels, size, size), prepared as those of a folder data set are."""
    header = read_header(path)
    if header.channels != info.channels and not convert:
        raise DataError(
            f"{path} is {COLOURS[header.channels]}, the network takes images of {info.channels} channels. "
            "Set convert=true to have it converted."
        )
    return path, decode(path, info.channels, info.size)


def _readable(
    attempts: Iterator[tuple[Path, Tensor] | DataError], failures: list[DataError]
) -> Iterator[tuple[Path, Tensor]]:
    for attempt in attempts:
        if isinstance(attempt, DataError):
            failures.append(attempt)
        else:
            yield attempt


def _predictions(
    trained: TrainedNetwork,
    trainer: Trainer,
    images: Iterator[tuple[Path, Tensor]],
    batch_size: int,
    top: int,
) -> Iterator[Prediction]:
    network, names = trainer.place(trained), trained.class_names
    for batch in _in_batches(images, batch_size):
        pixels = torch.stack([pixels for _, pixels in batch]).to(trainer.device)
        with trainer.autocast():
            found = network.predict(pixels).float().topk(min(top, len(names)))
        for (path, _), values, classes in zip(
            batch, found.values.tolist(), found.indices.tolist(), strict=True
        ):
            named = zip((names[k] for k in classes), values, strict=True)
            yield Prediction(path, tuple(named))


def _in_batches(
    images: Iterator[tuple[Path, Tensor]], batch_size: int
) -> Iterator[list[tuple[Path, Tensor]]]:
    batch: list[tuple[Path, Tensor]] = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _told(failures: Sequence[DataError]) -> str:
    lines = [str(error) for error in failures[:TOLD]]
    if len(failures) > TOLD:
        lines.append(f"{len(failures) - TOLD} more could not be classified.")
    return "\n".join(lines)


def _print_table(predictions: Iterator[Prediction]) -> None:
    rows = {
        str(found.image): "  ".join(f"{name} {100 * value:.1f} %" for name, value in found.classes)
        for found in predictions
    }
    print_table("predict", rows)


def _print_csv(predictions: Iterator[Prediction]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability"))
    for found in predictions:
        for rank, (name, value) in enumerate(found.classes, start=1):
            writer.writerow((found.image, rank, name, f"{value:.6f}"))


def _print_json_lines(predictions: Iterator[Prediction]) -> None:
    for found in predictions:
        classes = [{"class": name, "probability": value} for name, value in found.classes]
        sys.stdout.write(json.dumps({"image": str(found.image), "predictions": classes}) + "\n")


FORMS: Mapping[str, Callable[[Iterator[Prediction]], None]] = {
    "table": _print_table,
    "csv": _print_csv,
    "jsonl": _print_json_lines,
}
