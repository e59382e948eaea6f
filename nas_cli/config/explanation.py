"""Hydra's errors as sentences: which override is wrong, what is allowed, what is near.

Hydra tells what it could not do; what the user meant is found by looking at the overrides again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from nas_cli.catalogue import did_you_mean

KEY_AND_VALUE = re.compile(r"([~+]{0,2})([\w./@]+)(?:=(.*))?", re.DOTALL)


def explain(
    error: Exception, overrides: Sequence[str], offer: Mapping[str, Sequence[str]], known: Sequence[str]
) -> str:
    """`offer`: the options of each group; `known`: the keys that the chosen options have."""
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return (
            f"{error.override} cannot be read: {reason}. Text with special signs is quoted: key=\\'text\\'."
        )
    problems = [*_wrong_options(overrides, offer)] or [*_wrong_keys(overrides, offer, known)]
    return "\n".join(problems) or _own_words(error)


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a config, dotted; Hydra's own left out."""
    return [key for key in _walk(config, "") if not key.startswith("hydra")]


def _walk(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, node):
        key = f"{prefix}{name}"
        yield key
        value = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            yield from _walk(value, f"{key}.")


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
        group = key.split(".")[0]
        siblings = [name.removeprefix(f"{group}.") for name in known if name.startswith(f"{group}.")]
        near = did_you_mean(key, [name for name in (*known, *offer) if not name.endswith("_target_")])
        has = [name for name in siblings if name != "_target_"]
        yield f"{key}: there is no such setting.{near}" + (f" {group} has: {', '.join(has)}." if has else "")


def _split(override: str) -> tuple[str, str, str]:
    match = KEY_AND_VALUE.fullmatch(override)
    return (match[1], match[2], match[3] or "") if match else ("", override, "")


def _own_words(error: Exception) -> str:
    """Hydra's message without its list of search paths and its links."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("See ", "Search path", "provider=", "full_key", "object_type"))
    ]
    return " ".join(kept)
