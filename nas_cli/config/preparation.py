"""What happens to the user's overrides before Hydra composes them.

Paths and genotypes may hold commas, spaces and brackets, which Hydra's grammar reads as something else,
so the values of `genotype=`, `run=` and `...path=` are quoted. `latest` becomes the folder or file it
stands for. A genotype brings the space and the data it was searched with: they stand in for the
defaults, and experiments and the user's overrides apply on top.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import QuotedString

from nas_cli.architecture import Genotype, Json, read_genotype
from nas_cli.catalogue import groups_of, groups_overridden_by, options
from nas_cli.config.composition import Request, choices, compose_here, composing, parse, values
from nas_cli.errors import ConfigError, GenotypeError
from nas_cli.run import find_latest

OUTPUTS = Path("outputs")
FREE_TEXT = re.compile(r"(\+{0,2}(?:genotype|weights|(?:evaluator\.)?run|(?:\w+\.)+path))=(.+)", re.DOTALL)
GRAMMAR = re.compile(
    r"null|\?\?\?|(\$\{|choice\(|glob\().*|'[^']*'(,'[^']*')*|\"[^\"]*\"(,\"[^\"]*\")*", re.DOTALL
)
FROM_GENOTYPE = "genotype"
"""The name of the option that holds what a genotype brings, in the groups `space` and `dataset`."""


def prepare(request: Request) -> Request:
    """The request as Hydra gets it. Raises ConfigError, GenotypeError, RunError."""
    quoted = tuple(quote(override, multirun=request.multirun) for override in request.overrides)
    request = replace(request, overrides=quoted)
    if request.command == "derive":
        with composing(request):
            return _find_latest(request, "run", _latest_search)
    if request.command in ("export", "predict"):
        with composing(request):
            return _find_latest(request, "run", _latest_retrained)
    if request.command == "search" and quote("evaluator.run=latest") in quoted:
        with composing(request):
            return _find_latest(request, "evaluator.run", _latest_search)
    if request.command in ("retrain", "profile"):
        with composing(request):
            if request.command == "profile" and _is_of_space(request):
                return replace(request, overrides=(*request.overrides, "genotype=all"))
            request = _find_latest(request, "genotype", _latest_genotype)
            return _add_defaults(request)
    return request


def _is_of_space(request: Request) -> bool:
    """`nas profile space=NAME` without a genotype, or genotype=all."""
    given = [override for override in parse(request) if override.get_key_element() == "genotype"]
    if given:
        return bool(given[-1].value() == "all")
    return "space" in _chosen_groups(request)


def quote(override: str, *, multirun: bool = False) -> str:
    """`genotype=a,b.json` becomes `genotype='a,b.json'`; what is quoted, null or an interpolation stays.

    In a sweep, a value with commas that is neither a file nor a paper's text form is a list of values.
    """
    match = FREE_TEXT.fullmatch(override)
    if match is None or GRAMMAR.fullmatch(match[2]):
        return override
    key, text = match.groups()
    several = multirun and "," in text and "(" not in text and not Path(text).exists()
    return f"{key}=" + ",".join(_quoted(part) for part in (text.split(",") if several else [text]))


def _quoted(text: str) -> str:
    """Backslashes count only in front of a quote, where Hydra wants them doubled."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + (r"\'" if match[2] else ""), text)
    return f"'{escaped}'"


def _find_latest(request: Request, key: str, find: Callable[[], Path]) -> Request:
    """Replace `latest`, given or by default, by what it stands for: the run's config then says it."""
    given = [override for override in parse(request) if override.get_key_element() == key]
    reference = given[-1].value() if given else compose_here(choices(request)).get(key)
    if reference != "latest":
        return request
    others = tuple(
        text for text in request.overrides if text not in {override.input_line for override in given}
    )
    return replace(request, overrides=(*others, quote(f"{key}={find()}")))


def _latest_search() -> Path:
    return find_latest(OUTPUTS, ("search",))


def _latest_retrained() -> Path:
    return find_latest(OUTPUTS, ("retrain",))


def _latest_genotype() -> Path:
    return find_latest(OUTPUTS, ("search", "derive")) / "genotype.json"


def _add_defaults(request: Request) -> Request:
    """What the genotype brings, as the options `space=genotype` and `dataset=genotype`."""
    genotype = _one_genotype(request)
    if genotype is None:
        return request
    chosen = _chosen_groups(request)
    brought = []
    if "space" in chosen:
        _refuse_other_space(request, genotype)
    else:
        brought.append(_as_option("space", genotype.space))
    if "dataset" not in chosen and genotype.dataset is not None:
        brought.append(_as_option("dataset", genotype.dataset))
    return replace(request, brought=tuple(brought))


def _one_genotype(request: Request) -> Genotype | None:
    """The genotype, where it is a file that brings a space; of a sweep, the one they all agree with."""
    found = [read_genotype(reference) for reference in _references(request)]
    files = [genotype for genotype in found if isinstance(genotype, Genotype)]
    if not files:
        return None
    if len(files) < len(found) or len({_brings(genotype) for genotype in files}) > 1:
        raise GenotypeError(
            "The genotypes of one sweep must be of one space and one data set, and these differ. "
            "Give `nas retrain` once for each of them."
        )
    return files[0]


def _references(request: Request) -> list[str]:
    given = [override for override in parse(request) if override.get_key_element() == "genotype"]
    if not given:
        reference = compose_here(choices(request)).get("genotype")
        return [] if reference is None else [str(reference)]
    if given[-1].is_sweep_override():
        return [
            value.text if isinstance(value, QuotedString) else str(value)
            for value in given[-1].sweep_iterator()
        ]
    value = given[-1].value()
    return [] if value is None else [str(value)]


def _brings(genotype: Genotype) -> str:
    return json.dumps([dict(genotype.space), genotype.dataset and dict(genotype.dataset)], sort_keys=True)


def _chosen_groups(request: Request) -> set[str]:
    """The groups that the user, or the experiment which the user names, chooses an option of."""
    given = parse(request)
    experiments = [
        name for override in given if override.key_or_group == "experiment" for name in values(override)
    ]
    files = options("experiment", request.config_dir)
    chosen = {group for name in experiments if name in files for group in groups_overridden_by(files[name])}
    return chosen | {
        override.key_or_group for override in given if override.key_or_group in groups_of(request.command)
    }


def _refuse_other_space(request: Request, genotype: Genotype) -> None:
    space = compose_here(choices(request)).space
    if space.get("_target_") != genotype.space.get("_target_"):
        raise ConfigError(
            f"The genotype is of the space {genotype.space.get('_target_')}, and space= names another one, "
            f"{space.get('_target_')}. Leave space= out: a genotype file brings its own."
        )


def _as_option(group: str, node: Mapping[str, Json]) -> str:
    ConfigStore.instance().store(group=group, name=FROM_GENOTYPE, node=dict(node), provider="genotype")
    return f"{group}={FROM_GENOTYPE}"
