"""What a run ran on: versions, commit, processor, memory."""

import functools
import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

from nas_cli.architecture import Json

PACKAGE = Path(__file__).parents[1]


def environment(seed: Json) -> dict[str, Json]:
    """The content of `environment.json`."""
    import torch

    return {
        **_facts(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "argv": list(sys.argv),
    }


def peak_memory_mb() -> float:
    """The most memory that this process held so far, over all its runs."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def is_out_of_addresses() -> bool:
    """Where a limit is set (`ulimit -v`), this process has nearly reached it."""
    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return limit != resource.RLIM_INFINITY and bool(psutil.Process().memory_info().vms > 0.95 * limit)


def peak_gpu_memory_mb() -> float | None:
    """The most that tensors held on the GPU so far; None where no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(round(torch.cuda.max_memory_allocated() / 2**20, 1))


@functools.cache
def _facts() -> dict[str, Json]:
    """What stays the same in one process; asking git and the packages takes longer than a short run."""
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "torchvision": _version("torchvision"),
        "numpy": _version("numpy"),
        # Not imported: the package's front door leads to the commands, and imports point down.
        "nas_cli": str(vars(sys.modules["nas_cli"])["__version__"]),
        "commit": _commit(PACKAGE.parent),
        "system": platform.platform(),
        "processor": processor_name(),
        "gpu": gpu_name(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(checkout: Path) -> str | None:
    """The commit, with `-dirty` where files differ from it; None for an installed package.

    Git itself would also answer for a virtual environment that lies in some other repository.
    """
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def processor_name() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def is_amd() -> bool:
    """Whether the processor is one of AMD's."""
    name = processor_name()
    return name.startswith("AMD ") or "AuthenticAMD" in name


def gpu_name() -> str | None:
    """The model of the GPU; None where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
