"""`nas list`: what can be named on the command line, a line on each. Reads files; imports no torch."""

import sys
from pathlib import Path

from nas_cli.architecture import Genotype, published_names, read_genotype
from nas_cli.catalogue import options, summary

TITLES = {
    "space": "Search spaces",
    "strategy": "Strategies",
    "evaluator": "Evaluators",
    "dataset": "Data sets",
    "recipe": "Recipes",
    "trainer": "Trainers",
    "experiment": "Experiments",
}


def run(config_dir: Path | None = None) -> None:
    sections = [
        _section(title, f"{group}=", _summaries(group, config_dir)) for group, title in TITLES.items()
    ]
    sections.append(_section("Published genotypes", "genotype=", _genotypes()))
    sys.stdout.write("\n".join(section for section in sections if section))


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
