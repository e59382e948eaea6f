"""The C library keeps the memory of one training step for the next, instead of giving it back in between.

glibc maps every large block anew and unmaps it when it is freed, so that a training step faults in the same
pages as the step before. Settled through `mallopt`, before torch loads: freed blocks stay with the process.
NAS_MALLOC=default leaves glibc as it is; so do settings of its own (MALLOC_..._, GLIBC_TUNABLES). Where the
C library is another one, nothing is done.
"""

import ctypes
import os
import sys

from nas_cli.errors import ConfigError

CHOICES = ("keep", "default")
SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no block is mapped by itself
    -1: -1,  # M_TRIM_THRESHOLD: the top of the heap is never given back
    -2: 2**28,  # M_TOP_PAD: bytes that the heap grows by at least
}
"""Numbers and values of glibc's malloc.h."""

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


def _is_settled() -> bool:
    named = any(name in os.environ for name in OWN_SETTINGS)
    return named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
