"""A run in words: the result in one sentence, the facts, and the commands that repeat it and lead on."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from nas_cli.progress import duration
from nas_cli.report.record import RunRecord, as_record, number
from nas_cli.tracker import flatten

QUOTED = re.compile(r"([\w.]+=)'([^'\\]*)'")
"""Paths are quoted for Hydra before it reads them; `nas` does that by itself."""
Facts = list[tuple[str, str]]

ENVIRONMENT = (
    "nas_cli",
    "commit",
    "python",
    "torch",
    "torchvision",
    "numpy",
    "processor",
    "gpu",
    "threads",
    "system",
)


def sentence(record: RunRecord, parameters: float | None) -> str:
    """The result for someone who has never searched a network."""
    status = str(record.status.get("status"))
    if status != "done":
        return _unfinished(record, status)
    size = "" if parameters is None else f" of {parameters:,.0f} parameters"
    if record.command == "retrain":
        return _retrained(record, size)
    if record.command == "search":
        return _searched(record, size)
    if record.command == "derive":
        searched = record.config.get("run")
        return f"From the search in {searched} came a network{size}. It is not trained in full yet."
    return f"`nas {record.command}` is done; it took {seconds_told(record.seconds)}."


def _unfinished(record: RunRecord, status: str) -> str:
    after = f"after {seconds_told(record.seconds)} and {len(record.metrics)} epochs"
    if record.history:
        after = f"after {seconds_told(record.seconds)} and {len(record.history)} evaluations"
    said = {"running": "has not ended yet: this is what was there", "interrupted": "was stopped"}
    text = f"This {record.command} {said.get(status, 'failed')} {after}."
    error = record.status.get("error")
    return f"{text} {error}" if error else text


def _retrained(record: RunRecord, size: str) -> str:
    accuracy = number(record.result.get("test_accuracy"))
    classes = record.class_of("dataset")
    finder = str(record.found_by.get("strategy") or record.found_by.get("method") or "")
    network = f"The network{size}" + (f" that {finder} found" if finder else "")
    if accuracy is None:
        return f"{network} was trained on {classes}."
    right = f"{network} names {accuracy:.1f} of 100 images of {classes} right"
    return f"{right} that it had never seen ({_errors(accuracy)})."


def _errors(accuracy: float) -> str:
    return "no error" if accuracy >= 100 else f"one error in {100 / (100 - accuracy):.3g}"


def _searched(record: RunRecord, size: str) -> str:
    strategy, space, dataset = map(record.class_of, ("strategy", "space", "dataset"))
    text = f"{strategy} searched {space} on {dataset} for {seconds_told(record.seconds)}"
    text = f"{text} and found a network{size}"
    if record.score is not None:
        text += f" with a score of {record.score:.4g} {record.unit}".rstrip()
    if (test := number(record.found_by.get("test_accuracy"))) is not None:
        return f"{text}; its test accuracy is {test:.2f} %."
    return f"{text}. How good it is on its own shows once it is retrained."


def facts(record: RunRecord, parameters: float | None) -> Facts:
    """The figures beside the sentence."""
    searched = "score in the search" if record.result else "score"
    found: list[tuple[str, str | None]] = [
        ("test accuracy", _told(record.result.get("test_accuracy"), "{:.2f} %")),
        (searched, _told(record.found_by.get("score"), f"{{:.4g}} {record.unit}".rstrip())),
        ("parameters", _told(parameters, "{:,.0f}")),
        ("multiply-adds", _told(record.result.get("multiply_adds"), "{:,.0f}")),
        ("time", seconds_told(record.seconds)),
        ("peak memory", _told(record.status.get("peak_memory_mb"), "{:,.0f} MB")),
        ("peak GPU memory", _told(record.status.get("peak_gpu_memory_mb"), "{:,.0f} MB")),
        ("epochs", str(len(record.metrics)) if record.metrics else None),
        ("evaluations", str(len(record.history)) if record.history else None),
        ("seed", _told(record.config.get("seed"), "{:.0f}")),
    ]
    return [(name, text) for name, text in found if text is not None]


def environment(record: RunRecord) -> Facts:
    values = record.environment
    return [
        (name.replace("_", " "), str(values[name])) for name in ENVIRONMENT if values.get(name) is not None
    ]


def settings(record: RunRecord) -> Facts:
    """Every setting of config.yaml with its full key."""
    return list(flatten(dict(record.config)).items())


def time_parts(record: RunRecord) -> list[tuple[str, float]]:
    """Epochs, evaluations and the rest, in seconds. A table's seconds are simulated, so they are left out."""
    total = record.seconds
    epochs = sum(number(line.get("seconds")) or 0.0 for line in record.metrics)
    evaluations = sum(number(line.get("seconds")) or 0.0 for line in record.history)
    if epochs + evaluations > total:
        evaluations = 0.0
    rest = max(total - epochs - evaluations, 0.0)
    parts = [
        ("training epochs", epochs),
        ("scoring networks", evaluations),
        ("everything else", rest),
    ]
    return [(name, seconds) for name, seconds in parts if seconds > 0]


def seconds_told(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g}s"


def reproduce(record: RunRecord) -> list[str]:
    """The commands that give the same run again; none where the run was not started on a command line."""
    overrides = record.hydra("overrides.yaml")
    if not isinstance(overrides, list):
        return []
    words = ["nas", record.command, *_hydra_flags(record), *_given(overrides)]
    commit = str(record.environment.get("commit") or "")
    checkout = [f"git checkout {commit}"] if commit and not commit.endswith("-dirty") else []
    return [*checkout, shlex.join(words)]


def _given(overrides: Sequence[object]) -> list[str]:
    """`space=genotype` is what a genotype brought by itself."""
    brought = ("space=genotype", "dataset=genotype")
    return [QUOTED.sub(r"\1\2", str(override)) for override in overrides if override not in brought]


def _hydra_flags(record: RunRecord) -> list[str]:
    """A YAML or a folder of the user's, where they were given."""
    content = cast(dict[str, object], record.hydra("hydra.yaml") or {})
    hydra = content.get("hydra")
    if not isinstance(hydra, dict):
        return []
    name, sources = (
        as_record(hydra.get("job")).get("config_name"),
        as_record(hydra.get("runtime")).get("config_sources"),
    )
    flags = [] if name in (record.command, None) else ["--config-name", str(name)]
    for source in sources if isinstance(sources, list) else []:
        if as_record(source).get("provider") == "command-line":
            flags += ["--config-dir", str(as_record(source).get("path"))]
    return flags


def go_on(record: RunRecord) -> list[tuple[str, str]]:
    """(command, what it does), the next step first."""
    folder, genotype = shlex.quote(str(record.folder)), shlex.quote(str(record.folder / "genotype.json"))
    if record.status.get("status") != "done":
        resumable = record.command in ("search", "retrain")
        return [(f"nas {record.command} --resume {folder}", "go on where it stopped")] if resumable else []
    if record.command == "search":
        return [
            (f"nas retrain genotype={genotype}", "train the network in full and test it"),
            (f"nas derive run={folder} top=5", "see the five best networks, drawn and with their costs"),
        ]
    if record.command == "derive":
        weights = (
            f" weights={shlex.quote(str(record.folder / 'model.pt'))}"
            if (record.folder / "model.pt").exists()
            else ""
        )
        return [(f"nas retrain genotype={genotype}{weights}", "train the network in full and test it")]
    return _after_training(record.folder) if record.command == "retrain" else []


def _after_training(folder: Path) -> list[tuple[str, str]]:
    load = f'from nas_cli import load; print(load("{folder}"))'
    return [
        (f"python -c {shlex.quote(load)}", "load the trained network"),
        (f"tensorboard --logdir {shlex.quote(str(folder))}", "look at the curves closely"),
    ]


def _told(value: object, pattern: str) -> str | None:
    amount = number(value)
    return None if amount is None else pattern.format(amount)
