"""What `conf/` and a user's own folder offer: groups, their options, a line on each. No Hydra, no torch."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

COMMANDS = ("search", "derive", "retrain", "profile", "latency", "export", "predict")


def conf_dir() -> Path:
    """The checkout's `conf/`, or the copy in the wheel.

    The checkout comes first: an editable install leaves a copy in site-packages that grows stale.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "search.yaml").is_file():
        return checkout / "conf"
    return package / "conf"


def groups_of(command: str) -> list[str]:
    """The groups that a command composes, in the order of its YAML's defaults list."""
    names = [key for entry in _defaults(conf_dir() / f"{command}.yaml") for key in entry]
    return [name.removeprefix("optional ") for name in names if not name.startswith("override ")]


def settings_of(command: str) -> list[str]:
    """The groups and the plain settings that a command takes, and cannot do without."""
    groups = [group for group in groups_of(command) if group != "experiment"]
    content = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text(encoding="utf-8"))
    return [*groups, *(key for key in content if key != "defaults")]


def groups_overridden_by(file: Path) -> list[str]:
    """The groups that an experiment's YAML chooses an option of: `- override /dataset: cifar10`."""
    names = [key for entry in _defaults(file) for key in entry if key.startswith("override ")]
    return [name.removeprefix("override ").strip("/") for name in names]


def options(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """The options of a group and their files; a user's folder adds options and replaces none."""
    folders = [conf_dir()] if config_dir is None else [config_dir, conf_dir()]
    found = {file.stem: file for folder in folders for file in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def summary(file: Path) -> str:
    """The first line of a YAML, which says what the option is; Hydra's own `# @package` may stand above."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if lines and lines[0].startswith("# @package"):
        del lines[0]
    return lines[0].lstrip("# ").rstrip() if lines and lines[0].startswith("#") else ""


def make_importable(folder: Path | None) -> None:
    """Modules in the user's folder can be named by `_target_`; they come last, so they shadow nothing."""
    if folder is not None and str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` Did you mean x?` for a misspelt name; nothing where no name is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _defaults(file: Path) -> list[dict[str, object]]:
    """The `group: option` entries of a YAML's defaults list."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    entries = content.get("defaults", []) if isinstance(content, dict) else []
    return [entry for entry in entries if isinstance(entry, dict)]
