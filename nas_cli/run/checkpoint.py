"""The checkpoints of a run, the newest and the one before: tensors and plain values, with checksums."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nas_cli.archives import BROKEN
from nas_cli.errors import RunError
from nas_cli.run.files import keep_and_write

FORMAT = 2


def save(path: Path, state: Mapping[str, object], fingerprint: str, num_metrics: int) -> None:
    """Write the state with the fingerprint of the settings that it belongs to.

    `num_metrics` lines of metrics were written before it. The last checkpoint is kept beside it, as
    `previous(path)`. After a crash at any moment one of the two is there and whole.
    """
    import torch

    from nas_cli.run.packing import Packing

    buffer = io.BytesIO()
    packed = Packing.of(state)
    whole = {"format": FORMAT, "fingerprint": fingerprint, "metrics": num_metrics, "state": packed}
    torch.save(whole, buffer)
    keep_and_write(path, previous(path), buffer.getbuffer())


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


@dataclass(frozen=True)
class Loaded:
    """A state, on the CPU, and the file it is from, which is not the newest where that is damaged."""

    state: dict[str, object]
    path: Path


def load(path: Path, fingerprint: str, resume: str, num_metrics: int) -> Loaded | None:
    """Read the newest checkpoint that is whole; None where there is none yet.

    One that was saved after more than `num_metrics` lines of metrics comes last: some of those are lost.
    `resume` is the command that the message of damaged files tells the user to give.
    """
    present = [file for file in (path, previous(path)) if file.exists()]
    whole = [
        (file, content)
        for file in present
        if (content := read_archive(file)) is not None and {"format", "fingerprint", "state"} <= {*content}
    ]
    whole.sort(key=lambda found: cast(int, found[1].get("metrics", 0)) > num_metrics)
    if whole:
        file, content = whole[0]
        return Loaded(_checked(file, content, fingerprint), file)
    if present:
        files = " and ".join(map(str, present))
        are, them = ("is", "that file") if len(present) == 1 else ("are", "both files")
        raise RunError(
            f"{files} {are} damaged or no checkpoint of `nas`. Remove {them} and give `{resume}`: "
            "the run then begins anew with the same settings."
        )
    return None


def _checked(file: Path, content: Mapping[str, object], fingerprint: str) -> dict[str, object]:
    from nas_cli.run.packing import unpack

    if content["format"] != FORMAT:
        raise RunError(
            f"{file} has format {content['format']}; this version of `nas` reads format {FORMAT}. "
            "Resume it with the version in the run's environment.json."
        )
    if content["fingerprint"] != fingerprint:
        raise RunError(
            f"{file} is from other settings than the config.yaml beside it. Put the config.yaml of "
            "its run back, or start a new run with the new settings."
        )
    return cast(dict[str, object], unpack(cast(Mapping[str, object], content["state"])))


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
    except (*BROKEN, pickle.UnpicklingError):
        return None
    return content if isinstance(content, dict) else None
