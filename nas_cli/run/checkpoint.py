"""The checkpoint of a run: tensors and plain values in one file that is whole or not there."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from nas_cli.errors import RunError
from nas_cli.run.files import write_atomically

FORMAT = 1


def save(path: Path, state: Mapping[str, object], fingerprint: str) -> None:
    """Write the state with the fingerprint of the settings that it belongs to."""
    import torch

    content = dict(state)
    _check_plain(content, "state")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "fingerprint": fingerprint, "state": content}, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path, fingerprint: str, resume: str) -> dict[str, object] | None:
    """Read the state on the CPU; None where there is no checkpoint yet.

    `resume` is the command that the message of a damaged file tells the user to give.
    """
    if not path.exists():
        return None
    content = read_archive(path)
    if content is None or content.keys() != {"format", "fingerprint", "state"}:
        raise RunError(
            f"{path} is damaged or no checkpoint of `nas`. Remove that file and give `{resume}`: "
            "the run then begins anew with the same settings."
        )
    if content["format"] != FORMAT:
        raise RunError(
            f"{path} has format {content['format']}; this version of `nas` reads format {FORMAT}. "
            "Resume it with the version in the run's environment.json."
        )
    if content["fingerprint"] != fingerprint:
        raise RunError(
            f"{path} is from other settings than the config.yaml beside it. Put the config.yaml of "
            "its run back, or start a new run with the new settings."
        )
    state = content["state"]
    assert isinstance(state, dict)
    return state


def read_archive(path: Path) -> dict[str, object] | None:
    """What `torch.save` wrote of a dictionary of plain values; None where the file is damaged or another.

    torch does not look at the checksums of its own archive, so that a flipped bit would become a wrong
    weight; zipfile does.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
        return None
    return content if isinstance(content, dict) else None


def _check_plain(value: object, where: str) -> None:
    """A checkpoint that cannot be loaded again must fail while the run that made it still lives."""
    from torch import Tensor

    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not isinstance(value, Tensor) and type(value) not in (type(None), bool, int, float, str, bytes):
        raise TypeError(f"{where} is of {type(value)}; a checkpoint holds tensors and plain values only")
