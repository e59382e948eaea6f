"""What TAB offers after `nas search`: groups, their options, keys. No torch; Hydra for keys alone."""

from pathlib import Path

from nas_cli.catalogue import groups_of, options


def complete(command: str, typed: list[str], incomplete: str, config_dir: Path | None = None) -> list[str]:
    """The continuations of one word.

    zsh hands over `strategy=da` and wants the whole word back. bash splits at `=`: the words before are
    `strategy` and `=`, the last is `da`, and it wants `darts` alone.
    """
    group, split = _group_before(command, typed)
    if split:
        return _options(group, incomplete, config_dir)
    if "=" in incomplete:
        group, _, value = incomplete.partition("=")
        return [f"{group}={option}" for option in _options(group, value, config_dir)]
    groups = [f"{group}=" for group in groups_of(command) if group.startswith(incomplete)]
    return groups + [f"{key}=" for key in _keys(command, typed, config_dir) if key.startswith(incomplete)]


def _group_before(command: str, typed: list[str]) -> tuple[str, bool]:
    """The group whose value bash completes; click drops a `=` that stands at the very end."""
    words = [word for word in typed if word != "="]
    last = words[-1] if words else ""
    return last, last in groups_of(command)


def _options(group: str, value: str, config_dir: Path | None) -> list[str]:
    """Options of the last of several values: `-m strategy=darts,e`."""
    before, comma, last = value.rpartition(",")
    return [f"{before}{comma}{option}" for option in options(group, config_dir) if option.startswith(last)]


def _keys(command: str, typed: list[str], config_dir: Path | None) -> list[str]:
    from nas_cli.config.composition import Request, compose
    from nas_cli.config.explanation import keys_of
    from nas_cli.errors import NasError

    chosen = tuple(word for word in typed if word.partition("=")[0] in groups_of(command) and "=" in word)
    try:
        keys = keys_of(compose(Request(command, chosen, config_dir)))
    except NasError:
        return []
    inner = {key.rpartition(".")[0] for key in keys}
    return [key for key in keys if key not in inner and not key.endswith("_target_")]
