"""`nas list`: what can be named on the command line, a line on each, and what runs with what."""

import sys
from pathlib import Path

from nas_cli.architecture import Genotype, published_names, read_genotype
from nas_cli.catalogue import make_importable, options, summary

TITLES = {
    "space": "Search spaces",
    "strategy": "Strategies",
    "evaluator": "Evaluators",
    "executor": "Executors",
    "dataset": "Data sets",
    "recipe": "Recipes",
    "trainer": "Trainers",
    "tracker": "Trackers",
    "format": "Formats of an export",
    "experiment": "Experiments",
}


def run(config_dir: Path | None = None) -> None:
    sections = [
        _section(title, f"{group}=", _summaries(group, config_dir)) for group, title in TITLES.items()
    ]
    sections.append(_section("Published genotypes", "genotype=", _genotypes()))
    sys.stdout.write("\n".join(section for section in sections if section))
    sys.stdout.flush()  # what follows takes some seconds: every pair is tried
    sys.stdout.write("\n" + _matrix(config_dir))


def _matrix(config_dir: Path | None) -> str:
    """A row a strategy, a column a space: yes, or the number of the reason below."""
    from nas_cli.compatibility import refusals

    make_importable(config_dir)
    found = refusals(config_dir)
    spaces = list(found)
    reasons = list(dict.fromkeys(text for row in found.values() for text in row.values() if text))
    names = list(next(iter(found.values())))
    width = max(map(len, names))
    lines = ["What runs with what", "  " + " " * width + "".join(f"  {space}" for space in spaces)]
    for name in names:
        marks = [_mark(found[space][name], reasons) for space in spaces]
        cells = "".join(f"  {mark:<{len(space)}}" for mark, space in zip(marks, spaces, strict=True))
        lines.append(f"  {name:<{width}}{cells.rstrip()}")
    lines += [f"  ({number}) {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join(lines) + "\n"


def _mark(reason: str | None, reasons: list[str]) -> str:
    return "yes" if reason is None else f"({reasons.index(reason) + 1})"


def _summaries(group: str, config_dir: Path | None) -> dict[str, str]:
    return {name: summary(file) for name, file in options(group, config_dir).items()}


def _genotypes() -> dict[str, str]:
    """A published genotype says in `found_by` where it comes from."""
    return {name: _origin(read_genotype(name)) for name in published_names()}


def _origin(genotype: object) -> str:
    found_by = genotype.found_by if isinstance(genotype, Genotype) else {}
    error = found_by.get("cifar10_test_error_percent")
    method, paper = found_by.get("method"), found_by.get("paper")
    return f"{method} ({paper}), {error} % test error on CIFAR-10 in its paper"


def _section(title: str, prefix: str, lines: dict[str, str]) -> str:
    if not lines:
        return ""
    width = max(map(len, lines))
    return f"{title}\n" + "".join(f"  {prefix}{name:<{width}}  {text}\n" for name, text in lines.items())
