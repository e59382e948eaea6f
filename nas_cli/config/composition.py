"""One config, or one a job of a sweep, composed by Hydra from `conf/`, a user's folder and overrides."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nas_cli.catalogue import conf_dir, groups_of, options
from nas_cli.config.explanation import explain, keys_of
from nas_cli.errors import ConfigError

UNREADABLE = (OSError, YAMLError, UnicodeDecodeError)
"""What a YAML that is none, or holds no keys, raises."""
MAX_CHECKED_JOBS = 24
"""So many jobs of a sweep are checked before it starts; each job is checked again when it runs."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for on the command line, and the options that a genotype `brought` with it."""

    command: str
    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    config_name: str | None = None
    multirun: bool = False
    brought: tuple[str, ...] = ()


class _UserFolder(SearchPathPlugin):
    """Puts the folder of --config-dir behind the built-in one, for `compose` and for `hydra.main` alike."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.append(provider="command-line", path=f"file://{self.folder.resolve()}")


@contextmanager
def user_folder(config_dir: Path | None) -> Iterator[None]:
    """Hydra, started within, also searches that folder."""
    Plugins.instance().register(_UserFolder)
    _UserFolder.folder = config_dir
    try:
        yield
    finally:
        _UserFolder.folder = None


@contextmanager
def composing(request: Request) -> Iterator[None]:
    """Hydra is ready within, and what it refuses is raised as ConfigError."""
    with (
        user_folder(request.config_dir),
        initialize_config_dir(str(conf_dir()), job_name=request.command, version_base="1.3"),
        _readable_errors(request),
    ):
        yield


def compose(request: Request) -> DictConfig:
    """The config of a plain run, Hydra's own node in it. Raises ConfigError."""
    with composing(request):
        _refuse_sweeps(request)
        return compose_here(request)


def compose_jobs(request: Request) -> list[DictConfig]:
    """Configs of a sweep in which each value of each swept key occurs, at most `MAX_CHECKED_JOBS`.

    Sweeps that only their sweeper can expand, such as `interval(0, 1)`, are left out. Raises ConfigError.
    """
    with composing(request):
        spelled = [_spelled(override) for override in parse(request) if values(override)]
        return [
            _compose_job(replace(request, overrides=overrides, multirun=False))
            for overrides in itertools.islice(_one_at_a_time(spelled), MAX_CHECKED_JOBS)
        ]


def _one_at_a_time(spelled: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """The first value of every override; then each other value, those beside it at their first."""
    first = tuple(alternatives[0] for alternatives in spelled)
    yield first
    for place, alternatives in enumerate(spelled):
        for value in alternatives[1:]:
            yield (*first[:place], value, *first[place + 1 :])


def _compose_job(job: Request) -> DictConfig:
    with _readable_errors(job):
        return compose_here(job)


def compose_here(request: Request) -> DictConfig:
    """Compose within `composing`."""
    _refuse_nulls(request)
    name = request.config_name or request.command
    overrides = [*request.brought, *request.overrides]
    try:
        config = hydra_compose(name, overrides=overrides, return_hydra_config=True)
    except ValueError as error:  # Hydra's own, for a number where the name of an option belongs
        raise HydraException(str(error)) from error
    for group in groups_of(request.command):
        if group not in (*config, "experiment"):
            _refuse_missing(request, group)
    return config


def parse(request: Request) -> list[Override]:
    loader = GlobalHydra.instance().config_loader()
    return list(OverridesParser.create(config_loader=loader).parse_overrides(list(request.overrides)))


def values(override: Override) -> list[str]:
    """The values of a grid's sweep, or the one value, in Hydra's grammar; none for other sweeps."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []


def choices(request: Request) -> Request:
    """The request with what chooses options alone, the first option of a sweep: where defaults come from."""
    groups = groups_of(request.command)
    chosen = [
        f"{override.key_or_group}={values(override)[0]}"
        for override in parse(request)
        if override.key_or_group in groups and values(override)
    ]
    return replace(request, overrides=tuple(chosen), multirun=False)


def _spelled(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in values(override)]


def _refuse_sweeps(request: Request) -> None:
    for override in parse(request):
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} names several values: add -m to run one job for each, "
                f"or write {override.get_key_element()}=[...] for a list."
            )


def _refuse_nulls(request: Request) -> None:
    """Hydra answers `strategy=null` with a bug of its own."""
    for override in parse(request):
        null = override.value_type == ValueType.ELEMENT and override.value() is None
        if override.key_or_group in groups_of(request.command) and null and not override.is_delete():
            _refuse_missing(request, override.key_or_group)


def _refuse_missing(request: Request, group: str) -> None:
    allowed = ", ".join(options(group, request.config_dir))
    raise ConfigError(f"{group}= is needed by `nas {request.command}`: one of {allowed}.")


@contextmanager
def _readable_errors(request: Request) -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, request.overrides, _offer(request), _known_keys(request))) from error
    except UNREADABLE as error:
        raise ConfigError(_unreadable_yaml(request.config_dir) or str(error)) from error
    except AssertionError as error:  # Hydra's own, for what it does not expect: `+=[]`, a YAML of one word
        given = " ".join(request.overrides)
        told = f"Hydra cannot read these settings: {given}. Write group=option or key=value."
        raise ConfigError(_unreadable_yaml(request.config_dir) or told) from error


def _unreadable_yaml(folder: Path | None) -> str:
    """Which file of the user's folder is at fault; nothing where none is."""
    for file in sorted(folder.rglob("*.yaml")) if folder else []:
        try:
            found = OmegaConf.load(file)
            reason = "" if isinstance(found, DictConfig) else "it is a list"
        except AssertionError:  # OmegaConf's own, for a text that is none of its kinds
            reason = "it is one word"
        except (*UNREADABLE, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
        if reason:
            return f"{file} holds no settings ({reason}). Write a key and its value on each line: `order: 1`."
    return ""


def _offer(request: Request) -> dict[str, list[str]]:
    return {group: list(options(group, request.config_dir)) for group in groups_of(request.command)}


def _known_keys(request: Request) -> list[str]:
    """The settings that the chosen options have; those of the defaults where the choice itself is wrong."""
    for attempt in (choices, lambda request: replace(request, overrides=())):
        try:
            return keys_of(compose_here(attempt(request)))
        except (HydraException, OmegaConfBaseException):
            continue
    return []
