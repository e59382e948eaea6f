"""Every YAML in `conf/` keeps its promises; a new one is found by itself."""

import importlib
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from nas_cli.catalogue import COMMANDS, conf_dir, groups_of, options, summary
from nas_cli.config import check
from nas_cli.config.composition import Request, compose
from nas_cli.config.settings import KINDS, parameters_of

FILES = sorted(conf_dir().rglob("*.yaml"))
OPTIONS = [(group, name) for group in KINDS for name in options(group)]
EXPERIMENTS = list(options("experiment"))


def command_of(experiment: str) -> str:
    """An experiment for a training from scratch names a genotype or is called `..._retrain`."""
    text = options("experiment")[experiment].read_text(encoding="utf-8")
    return "retrain" if "genotype:" in text or experiment.endswith("_retrain") else "search"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_the_first_line_says_what_it_is(file: Path) -> None:
    assert summary(file)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_compose_and_pass_the_check(command: str) -> None:
    config = compose(Request(command))
    check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_the_keys_are_the_settings_of_the_class_and_pass_the_check(group: str, name: str) -> None:
    command = next(command for command in COMMANDS if group in groups_of(command))
    node = compose(Request(command, (f"{group}={name}",)))[group]
    if not node:
        assert (group, name) in (("evaluator", "auto"), ("tracker", "none"))
        return
    module, _, class_name = node._target_.rpartition(".")
    target = getattr(importlib.import_module(module), class_name)
    assert [key for key in node if key != "_target_"] == list(parameters_of(target))
    given = {key: value for key, value in node.items_ex(resolve=False) if not OmegaConf.is_missing(node, key)}
    needed = [
        key for key, (_, default) in parameters_of(target).items() if default is inspect.Parameter.empty
    ]
    assert {key for key in node if OmegaConf.is_missing(node, key)} <= set(needed)
    check(OmegaConf.create({group: given | {key: "text" for key in node if OmegaConf.is_missing(node, key)}}))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_passes_the_check(name: str) -> None:
    request = Request(command_of(name), (f"experiment={name}",))
    if OmegaConf.is_missing(compose(request).dataset, "path"):  # left to the user
        request = replace(request, overrides=(*request.overrides, "dataset.path=images.npz"))
    config = compose(request)
    check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def test_every_folder_of_conf_is_a_group_of_a_command() -> None:
    groups = {group for command in COMMANDS for group in groups_of(command)}
    assert {folder.name for folder in conf_dir().iterdir() if folder.is_dir()} <= groups


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_it_is_yaml(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict | None)
