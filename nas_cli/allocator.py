"""The C library keeps the memory of one training step for the next, instead of giving it back in between.

glibc maps every large block anew and unmaps it when it is freed, so that a training step faults in the same
pages as the step before. Settled through `mallopt`, before torch loads: freed blocks stay with the process.
Address space for half of the machine's memory is set aside too, for pages of 2 MiB in place of 4 KiB: the
processor looks fewer of them up. Nothing is taken of the memory itself before it is used.
NAS_MALLOC=default leaves glibc as it is; so do settings of its own (MALLOC_..._, GLIBC_TUNABLES). Where the
C library is another one, nothing is done. An allocator that is preloaded (LD_PRELOAD) takes glibc's
place, and sets those pages aside.
"""

import ctypes
import os
import resource
import sys
from pathlib import Path

from nas_cli.errors import ConfigError

CHOICES = ("keep", "default")
SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no block is mapped by itself
    -1: -1,  # M_TRIM_THRESHOLD: the top of the heap is never given back
    -2: 2**28,  # M_TOP_PAD: bytes that the heap grows by at least
}
"""Numbers and values of glibc's malloc.h."""

HUGE = 2**21
MADV_HUGEPAGE = 14
"""Of Linux' madvise."""
OVERCOMMIT, STRICT = Path("/proc/sys/vm/overcommit_memory"), "2"
"""With this policy of Linux, address space counts as memory."""

OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def settle_allocator() -> None:
    """Have freed memory kept, unless the environment says otherwise. Raises ConfigError on a wrong choice."""
    choice = os.environ.get("NAS_MALLOC", "keep")
    if choice not in CHOICES:
        raise ConfigError(f"NAS_MALLOC={choice}: must be one of {', '.join(CHOICES)}.")
    if choice == "default" or sys.platform != "linux" or _is_settled():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
    if mallopt is not None:
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
        _set_aside_huge_pages()


def _set_aside_huge_pages() -> None:
    """One block, freed again: the heap keeps it."""
    if not _addresses_are_free():
        return
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = library.malloc(ctypes.c_size_t(size))
    if block is not None:
        start = -(-block // HUGE) * HUGE
        length = (block + size - start) // HUGE * HUGE
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_HUGEPAGE)
        library.free(ctypes.c_void_p(block))


def _addresses_are_free() -> bool:
    """Neither limited (`ulimit -v`) nor counted as memory."""
    try:
        policy = OVERCOMMIT.read_text().strip()
    except OSError:
        return False
    return policy != STRICT and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def _is_settled() -> bool:
    named = any(name in os.environ for name in OWN_SETTINGS)
    return named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
