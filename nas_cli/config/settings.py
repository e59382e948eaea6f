"""From a composed config to objects: every setting is checked against the constructor that takes it.

A group's node names its class in `_target_`; the other keys are the keyword-only parameters of that
class, whose annotations (`Annotated[float, Field(gt=0)]`, `Literal["a", "b"]`) say what is allowed.
"""

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nas_cli.catalogue import did_you_mean
from nas_cli.errors import ConfigError

T = TypeVar("T")

KINDS = {
    "space": "nas_cli.space.SearchSpace",
    "supernet": "nas_cli.supernet.SupernetOptions",
    "strategy": "nas_cli.strategy.Strategy",
    "evaluator": "nas_cli.evaluator.Evaluator",
    "executor": "nas_cli.executor.Executor",
    "budget": "nas_cli.budget.Budget",
    "dataset": "nas_cli.data.Dataset",
    "recipe": "nas_cli.recipe.Recipe",
    "trainer": "nas_cli.trainer.Trainer",
    "tracker": "nas_cli.tracker.Tracker",
    "format": "nas_cli.export.export_format.ExportFormat",
}
"""The groups, and the class that each `_target_` of a group must be a subclass of."""

PLAIN: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0)],
    "genotype": str,
    "weights": str | None,
    "run": str,
    "top": Annotated[int, Field(ge=1)],
    "epoch": Annotated[int, Field(ge=0)] | None,
    "batch_size": Annotated[int, Field(ge=1)],
    "threads": Annotated[int, Field(ge=1)],
    "checks": Annotated[int, Field(ge=2)],
    "preflight": bool,
    "convert": bool,
    "samples": Annotated[int, Field(ge=1)],
}
"""The settings that are no groups."""

_NAMES: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
_BOUNDS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "multiple_of": "a multiple of {}",
    "min_length": "with at least {} entries",
    "max_length": "with at most {} entries",
}


def check(config: DictConfig, settings: Sequence[str] | None = None) -> None:
    """Raises one ConfigError that lists every wrong setting; builds nothing.

    `settings`: the groups and plain settings that the command takes, all of which it needs.
    """
    values, known = _plain_values(config), [*KINDS, *PLAIN] if settings is None else settings
    problems = [f"{key}= is needed{_allowed(key)}." for key in settings or () if key not in values]
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, known) or f" There are: {', '.join(known)}."
            problems.append(f"{key}: there is no such setting.{hint}")
        elif key in KINDS:
            problems += _group_problems(key, value)
        else:
            problems += _value_problems(key, value, PLAIN[key])
    _raise(problems)


def _allowed(key: str) -> str:
    return f": {describe(PLAIN[key])}" if key in PLAIN else ""


def build(kind: type[T], node: DictConfig, *given: object) -> T:
    """The object that `_target_` names: `given` positional, the node's other keys keyword-only."""
    group = next(
        (group for group, path in KINDS.items() if path.endswith(f".{kind.__name__}")), kind.__name__
    )
    values = _plain_values(node, group)
    _raise(_target_problems(group, values, kind))
    target = _load(str(values.pop("_target_")))
    _raise(_setting_problems(group, values, target))
    parameters = parameters_of(target)
    settings = {name: _validate(value, parameters[name][0]) for name, value in values.items()}
    return cast(T, target(*given, **settings))


@cache
def parameters_of(target: type) -> dict[str, tuple[Any, Any]]:
    """The keyword-only parameters of a class: annotation and default (`inspect.Parameter.empty`: needed)."""
    parameters = inspect.signature(target, eval_str=True).parameters.values()
    return {
        parameter.name: (parameter.annotation, parameter.default)
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _raise(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} settings are wrong:\n  " + "\n  ".join(problems))


def _plain_values(config: DictConfig, group: str = "") -> dict[str, Any]:
    """Interpolations resolved; a value that is still missing stays `???`."""
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (group, str(error.full_key or "")) if part)
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}.") from error
    return dict(values)


def _group_problems(group: str, values: Any) -> list[str]:
    if not values:
        return []  # an option without a class, such as `evaluator=auto`
    if not isinstance(values, dict):
        return [f"{group}={_spell(values)}: must be one of the options of {group}, not a plain value."]
    return _target_problems(group, values, _load(KINDS[group])) or _setting_problems(
        group, {key: value for key, value in values.items() if key != "_target_"}, _load(values["_target_"])
    )


def _target_problems(group: str, values: Mapping[str, Any], kind: type) -> list[str]:
    target = values.get("_target_")
    if not isinstance(target, str):
        given = f"={_spell(target)}: must be" if "_target_" in values else " is needed:"
        return [f"{group}._target_{given} the name of a subclass of {kind.__module__}.{kind.__name__}."]
    try:
        found = _load(target)
    except ConfigError as error:
        return [f"{group}._target_={target}: {error}"]
    if not (isinstance(found, type) and issubclass(found, kind)) or inspect.isabstract(found):
        return [f"{group}._target_={target}: must be a subclass of {kind.__module__}.{kind.__name__}."]
    return []


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"there is no such class ({error}). --config-dir FOLDER finds classes of your own."
        ) from error
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}, line {error.lineno} cannot be read ({error.msg}).") from error


def _setting_problems(group: str, values: Mapping[str, Any], target: type) -> list[str]:
    parameters = parameters_of(target)
    problems = [
        f"{group}.{name} is needed: {describe(annotation)}."
        for name, (annotation, default) in parameters.items()
        if name not in values and default is inspect.Parameter.empty
    ]
    for name, value in values.items():
        if name in parameters:
            problems += _value_problems(f"{group}.{name}", value, parameters[name][0])
        else:
            problems.append(_unknown(group, name, list(parameters)))
    return problems


def _unknown(group: str, name: str, known: list[str]) -> str:
    hint = did_you_mean(f"{group}.{name}", [f"{group}.{other}" for other in known])
    allowed = f"its settings are {', '.join(known)}" if known else "it has no settings"
    return f"{group}.{name}: there is no such setting; {allowed}.{hint}"


def _value_problems(key: str, value: Any, annotation: Any) -> list[str]:
    if value == "???":
        return [f"{key}= is needed: {describe(annotation)}."]
    try:
        _validate(value, annotation)
    except ValidationError as error:
        details = error.errors()[0]
        said = describe(annotation)
        if details["type"] == "value_error":
            said += f" ({details['msg'].removeprefix('Value error, ')})"
        wrong, names = details["input"], _literals(annotation)  # of a list, the wrong entry
        hint = did_you_mean(wrong, names) if isinstance(wrong, str) and wrong not in names else ""
        return [f"{key}={_spell(value)}: must be {said}.{hint}"]
    return []


def _validate(value: Any, annotation: Any) -> Any:
    """JSON's strict rules are YAML's: a list may become a tuple, an integer a float, and nothing else.

    No setting may be infinite or not a number.
    """
    adapter = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    return adapter.validate_json(json.dumps(value), strict=True)


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _literals(annotation: Any) -> list[str]:
    """Every string that a Literal within the annotation names."""
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if isinstance(option, str)]
    parts = get_type_hints(annotation).values() if _has_entries(annotation) else get_args(annotation)
    return [option for part in parts for option in _literals(part)]


def _has_entries(annotation: Any) -> bool:
    """A dataclass, which is given as a mapping; a validator is an instance of one."""
    return isinstance(annotation, type) and is_dataclass(annotation)


def describe(annotation: Any) -> str:
    """What an annotation allows, in words: `a whole number at least 1, or null`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(parts[0]), *_bounds(parts[1:])])
    if origin in (Union, UnionType):
        return ", or ".join(describe(part) for part in parts)
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(_spell(part) for part in parts)
    if origin in (tuple, list):
        length = f" of {len(parts)}" if origin is tuple and Ellipsis not in parts else ""
        return f"a list{length} ({describe(parts[0])} each)"
    if _has_entries(annotation):
        entries = get_type_hints(annotation, include_extras=True).items()
        return "{" + ", ".join(f"{name}: {describe(part)}" for name, part in entries) + "}"
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation)).lower()


def _bounds(metadata: tuple[Any, ...]) -> list[str]:
    """`Field(ge=1, lt=2)` keeps its bounds in its own metadata, one object a bound."""
    bounds = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
    texts = [
        text.format(getattr(bound, name))
        for bound in bounds
        for name, text in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return [" and ".join(texts)] if texts else []
