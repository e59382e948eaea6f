"""The vocabulary of a search: choices, architectures, and genotypes, their file form. No torch here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nas_cli.catalogue import did_you_mean
from nas_cli.errors import GenotypeError

Option = str | int
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

FORMAT = 1
PUBLISHED = Path(__file__).parent / "genotypes"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision with a fixed list of options, such as the operation of one edge."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One pick for every choice of a space: `picks[k]` is the index of the option of choice k."""

    picks: tuple[int, ...]


@dataclass(frozen=True)
class Genotype:
    """The readable, self-contained form of an architecture (`genotype.json`).

    `space` is the config node that the space is built from, `choices` names the option of every
    choice, `dataset` is the config node of the data it was searched on (None for a published cell),
    `found_by` says who found it: strategy, seed, run, score, cost.
    """

    space: Mapping[str, Json]
    choices: Mapping[str, Option]
    dataset: Mapping[str, Json] | None = None
    found_by: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "space": dict(self.space),
            "choices": dict(self.choices),
            "dataset": None if self.dataset is None else dict(self.dataset),
            "found_by": dict(self.found_by),
        }
        return json.dumps(content, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class GenotypeText:
    """An architecture in a paper's own spelling, which needs a space to be read: `SearchSpace.parse`."""

    text: str


def published_names() -> list[str]:
    return sorted(file.stem for file in PUBLISHED.glob("*.json"))


def read_genotype(reference: str) -> Genotype | GenotypeText:
    """Read a genotype file, a published name such as `darts_v2`, or a paper's text form.

    Raises GenotypeError with the reason where it is none of these.
    """
    path = PUBLISHED / f"{reference}.json" if reference in published_names() else Path(reference)
    if _is_text_form(reference):
        return GenotypeText(reference)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GenotypeError(f"genotype={reference} is no text file. {_WHAT_IT_IS}") from error
    except OSError as error:
        raise GenotypeError(f"genotype={reference}: {_why_unread(path)}") from error
    if _is_text_form(text):
        return GenotypeText(text.strip())
    return parse_genotype(text, reference)


def _why_unread(path: Path) -> str:
    if path.is_dir():
        return "that is a folder. Give the file genotype.json of a finished search in it."
    if (path.parent / "status.json").is_file():
        return (
            "its run has not come so far. Let it end first, or take what it has found until now with "
            f"`nas derive run={path.parent}`."
        )
    names = published_names()
    return (
        f"there is no such file, and no published cell of that name.{did_you_mean(path.name, names)} "
        f"Published: {', '.join(names)}."
    )


_WHAT_IT_IS = "A genotype is the file that `nas search` and `nas derive` write, or a paper's text form."


def _is_text_form(text: str) -> bool:
    """DARTS writes `Genotype(normal=...)`, possibly after `NAME =`; NAS-Bench-201 writes `|op~0|+|...|`."""
    stripped = text.strip()
    return "Genotype(" in stripped or (stripped.startswith("|") and stripped.endswith("|"))


def parse_genotype(text: str, source: str) -> Genotype:
    """Read what `to_json` wrote; `source` is what an error calls it. Raises GenotypeError."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise GenotypeError(
            f"{source} is not JSON (line {error.lineno}: {error.msg}). {_WHAT_IT_IS}"
        ) from error
    _check_content(content, source)
    return Genotype(
        space=content["space"],
        choices=content["choices"],
        dataset=content.get("dataset"),
        found_by=content.get("found_by") or {},
    )


def _check_content(content: Json, source: str) -> None:
    if not isinstance(content, dict):
        raise GenotypeError(f"{source} is no genotype: that is an object with `space` and `choices`.")
    if content.get("format") != FORMAT:
        raise GenotypeError(
            f"{source} has format {content.get('format')!r}; this version reads format {FORMAT}."
        )
    for key in ("space", "choices"):
        if not isinstance(content.get(key), dict):
            raise GenotypeError(f"{source} has no object {key!r}, so it is no genotype.")
    for key in ("dataset", "found_by"):
        if not isinstance(content.get(key), dict | None):
            raise GenotypeError(f"{source}: {key!r} must be an object.")
