"""Run folders on the disk: what state they are in, and the latest of a command."""

import json
from collections.abc import Iterator
from pathlib import Path

from nas_cli.architecture import Json
from nas_cli.errors import RunError

STATUS_KEYS = {"command", "status", "start", "end", "seconds"}


def claim(folder: Path, status: str) -> None:
    """Make the folder where needed and be the one run in it, of two that start in the same moment."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "status.json").open("x", encoding="utf-8") as file:
            file.write(status)
    except FileExistsError as error:
        if folder.is_dir():
            raise RunError(
                f"{folder} already holds a run. Continue it with --resume, or choose another folder with "
                "hydra.run.dir=FOLDER."
            ) from error
        raise _not_writable(folder, error) from error
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"The run folder {folder} cannot be written ({error.strerror}). "
        "Choose another one with hydra.run.dir=FOLDER."
    )


def read_status(folder: Path) -> dict[str, Json]:
    """Raises RunError where the folder is missing or holds no run."""
    if not folder.is_dir():
        raise RunError(f"There is no run folder {folder}. Give a folder that a `nas` command made.")
    status = read_json(folder / "status.json") if (folder / "status.json").exists() else None
    if not isinstance(status, dict) or not status.keys() >= STATUS_KEYS:
        raise RunError(
            f"{folder} is no run folder: it has no status.json of a run. "
            "Give a folder that a `nas` command made."
        )
    return status


def read_config(folder: Path) -> dict[str, Json]:
    """Raises RunError where config.yaml is missing or damaged."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        config = None
    if not isinstance(config, dict):
        raise RunError(
            f"{folder} is no run folder: its config.yaml is missing or damaged. "
            "Start a new run with the settings you want."
        )
    return {str(key): value for key, value in config.items()}


def read_json(path: Path) -> Json:
    """Raises RunError where the file is missing or no JSON."""
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}). Did its run get that far?") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: it is no JSON. Restore it, or start the run again.") from error
    return content


def find_latest(outputs: Path, commands: tuple[str, ...]) -> Path:
    """The run folder of these commands that was done last, jobs of a multirun included."""
    done = [
        (str(status["end"]), folder)
        for command in commands
        for folder, status in _runs_under(outputs / command)
        if status["status"] == "done" and status["command"] == command
    ]
    if not done:
        names = " or ".join(f"`nas {command}`" for command in commands)
        raise RunError(f"{outputs} holds no finished run of {names}. Make one with `nas {commands[0]}`.")
    return max(done)[1]


def _runs_under(folder: Path) -> Iterator[tuple[Path, dict[str, Json]]]:
    for file in folder.rglob("status.json"):
        try:
            yield file.parent, read_status(file.parent)
        except RunError:
            continue  # a run that begins in this moment, or a damaged one, is not a finished one


def find_run(reference: str, outputs: Path, command: str) -> Path:
    """The folder of a run of that command: `latest` for the newest finished one, or its path."""
    if reference == "latest":
        return find_latest(outputs, (command,))
    folder = Path(reference).expanduser()
    found = read_status(folder)["command"]
    if found != command:
        raise RunError(f"{folder} is a run of `nas {found}`; this needs one of `nas {command}`.")
    return folder
