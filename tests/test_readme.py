"""The two READMEs say the same."""

import re
from pathlib import Path

from nas_cli.catalogue import COMMANDS, options

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """The lines that a user types, without their comments."""
    lines = [re.sub(r" +#.*", "", line) for line in text.splitlines()]
    return [line for line in lines if re.match(r"(nas|make|pip) ", line)]


def test_both_languages_show_the_same_commands() -> None:
    assert commands(ENGLISH) == commands(CHINESE)
    assert len(commands(ENGLISH)) > 10


def test_every_command_space_and_strategy_is_named_in_both() -> None:
    names = [f"`{name}`" for group in ("space", "strategy") for name in options(group)]
    names += [f"`nas {command}" for command in COMMANDS]
    for text in (ENGLISH, CHINESE):
        assert [name for name in names if name not in text] == []


def test_the_tree_names_every_file_and_folder_of_the_package() -> None:
    package = ROOT / "nas_cli"
    names = [path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"]
    named = [name for name in names if not name.startswith("__")]
    assert [name for name in named if name not in ENGLISH] == []
