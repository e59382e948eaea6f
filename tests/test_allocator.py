"""Memory that one step frees is there for the next one, without a page fault."""

import os
import platform
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from nas_cli.allocator import settle_allocator
from nas_cli.errors import ConfigError

FAULTS = """
import resource
from nas_cli.allocator import settle_allocator
settle_allocator()
size = 64 * 2**20
block = b"x" * size
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64 * 2**20 // 4096
HUGE_PAGES = """
import resource, sys
from pathlib import Path
from nas_cli.allocator import settle_allocator
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
settle_allocator()
block = b"x" * 64 * 2**20
fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
print(fields["AnonHugePages"].split()[0])
"""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")


def faults(**environment: str) -> int:
    """Pages that are faulted in for a block as large as one that was freed before."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    command = [sys.executable, "-c", FAULTS]
    answer = subprocess.run(command, env=kept | environment, check=True, capture_output=True, text=True)
    return int(answer.stdout)


@glibc
def test_a_freed_block_is_used_again() -> None:
    assert faults() < PAGES / 100


@glibc
def test_the_default_of_glibc_can_be_had() -> None:
    assert faults(NAS_MALLOC="default") > PAGES / 2


@glibc
def test_settings_of_the_users_own_are_left_alone() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_="65536") > PAGES / 2


def huge_pages(limit: int) -> int:
    """MiB of memory in huge pages, of a process with a block of 64 MiB and that much address space."""
    command = [sys.executable, "-c", HUGE_PAGES, str(limit)]
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    answer = subprocess.run(command, env=kept, check=True, capture_output=True, text=True)
    return int(answer.stdout) // 1024


@glibc
@pytest.mark.skipif(
    not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="this kernel does not leave huge pages to the process",
)
def test_large_blocks_are_in_huge_pages_but_where_address_space_is_limited() -> None:
    assert huge_pages(0) >= 60
    assert huge_pages(2**40) == 0


@glibc
@pytest.mark.skipif(find_library("tcmalloc_minimal") is None, reason="tcmalloc is not installed")
def test_another_allocator_may_stand_in_for_glibcs() -> None:
    library = find_library("tcmalloc_minimal")
    assert faults(LD_PRELOAD=str(library)) < PAGES / 100


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_MALLOC", "fast")
    with pytest.raises(ConfigError, match="NAS_MALLOC=fast: must be one of keep, default"):
        settle_allocator()
