"""Hydra's errors as sentences: which override is wrong, what is allowed, what is near.

Hydra tells what it could not do; what the user meant is found by looking at the overrides again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from nas_cli.catalogue import did_you_mean

KEY_AND_VALUE = re.compile(r"([~+]{0,2})([\w./@]+)(?:=(.*))?", re.DOTALL)
PLUGINS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/sweeper=optuna": "optuna",
}
"""Launchers and sweepers that are packages of their own: {override: our extra that brings it}."""
NOISE = ("See ", "Search path", "Config search path", "provider=", "full_key", "object_type", "reference")


def explain(
    error: Exception, overrides: Sequence[str], offer: Mapping[str, Sequence[str]], known: Sequence[str]
) -> str:
    """`offer`: the options of each group; `known`: the keys that the chosen options have."""
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override} cannot be read: {reason}. Quote text with special signs: \"key='text'\"."
    problems = [*_missing_plugins(overrides, error), *_wrong_options(overrides, offer)] or [
        *_wrong_keys(overrides, offer, known)
    ]
    return "\n".join(problems) or f"{_hydras_own(overrides)}{_own_words(error)}"


def _hydras_own(overrides: Sequence[str]) -> str:
    """What is not explained is about Hydra's own settings, where they are given."""
    given = [override for override in overrides if _split(override)[1].startswith("hydra")]
    return f"{' '.join(given)}: " if given else ""


def _missing_plugins(overrides: Sequence[str], error: Exception) -> Iterator[str]:
    for override in overrides:
        _, key, value = _split(override)
        extra = PLUGINS.get(f"{key}={value}")
        if extra and f"{key}/{value}" in str(error):
            yield f"{override} needs a package: pip install 'nas-cli[{extra}]', or leave it out."


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a config, dotted; Hydra's own left out."""
    return [key for key in _walk(config, "") if not key.startswith("hydra")]


def _walk(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, node):
        key = f"{prefix}{name}"
        yield key
        readable = not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name)
        if readable and isinstance(node[name], DictConfig):
            yield from _walk(node[name], f"{key}.")


def _wrong_options(overrides: Sequence[str], offer: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for override in overrides:
        _, key, value = _split(override)
        for option in value.split(","):
            if key in offer and option not in (*offer[key], "null"):
                yield (
                    f"{key}={option}: there is no such option of {key}.{did_you_mean(option, offer[key])} "
                    f"Options: {', '.join(offer[key]) or 'none'}."
                )


def _wrong_keys(
    overrides: Sequence[str], offer: Mapping[str, Sequence[str]], known: Sequence[str]
) -> Iterator[str]:
    for override in overrides:
        sign, key, _ = _split(override)
        if sign.startswith("+") or key in known or key in offer or key.startswith("hydra"):
            continue
        yield f"{key}: there is no such setting.{_hint(key, [*known, *offer])}"


def _hint(key: str, known: Sequence[str]) -> str:
    """The same setting of another group, else a near name beside it, else all that there is beside it."""
    names = [name for name in dict.fromkeys(known) if not name.endswith("_target_")]
    group, _, setting = key.rpartition(".")
    for name in names:
        if name.rpartition(".")[2] == setting:
            return f" Did you mean {name}?"
    siblings = [name for name in names if name.rpartition(".")[0] == group]
    near = did_you_mean(key, siblings)
    if near or not siblings:
        return near
    return f" {group} has: {', '.join(siblings)}." if group else f" There are: {', '.join(siblings)}."


def _split(override: str) -> tuple[str, str, str]:
    match = KEY_AND_VALUE.fullmatch(override)
    return (match[1], match[2], match[3] or "") if match else ("", override, "")


def _own_words(error: Exception) -> str:
    """Hydra's message without its list of search paths and its links."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and not error.options:
        return (
            f"There is no {error.missing_cfg_file}.yaml, neither built in nor in the folder of --config-dir."
        )
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(NOISE))
