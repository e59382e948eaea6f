"""How much memory and disk this process may still use."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
OF_THIS_PROCESS = Path("/proc/self/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes: of the GPU, or of the machine within the limits of the container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return min([psutil.virtual_memory().available, *left_in_groups()])


def free_disk(folder: Path) -> int:
    """Bytes on the disk of a folder, which need not be made yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free


def left_in_groups(root: Path = CGROUPS, of_this_process: Path = OF_THIS_PROCESS) -> list[int]:
    """What each control group of this process, in Linux' old form or new, leaves of its memory limit."""
    found = []
    for folder in _groups(root, of_this_process):
        new = _left(folder, "memory.max", "memory.current", "inactive_file")
        old = _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        found += [left for left in (new, old) if left is not None]
    return found


def _groups(root: Path, of_this_process: Path) -> Iterator[Path]:
    """The group's folder and all above it; in a container they may be seen at the root alone."""
    try:
        lines = of_this_process.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            top = root / kinds
            yield top
            below = top / path.lstrip("/")
            yield from (folder for folder in (below, *below.parents) if top in folder.parents)


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """None where there is no limit. What can be dropped from the file cache counts as free."""
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, most - used + int(stat.get(reclaimable, 0)))
