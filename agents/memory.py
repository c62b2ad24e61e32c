"""How this process uses memory: settings that make torch fast on a CPU, and which part of it is its own."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

_MOST = (1 << 31) - 1  # mallopt takes an int
_SETTINGS = {  # by the numbers of glibc's malloc.h
    -2: 256 << 20,  # M_TOP_PAD
    -1: _MOST,  # M_TRIM_THRESHOLD
    -3: _MOST,  # M_MMAP_THRESHOLD
    -8: 1,  # M_ARENA_MAX: the arenas of other threads have 64 MB each and map what is larger
}


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of giving it back to the kernel and faulting it in again.

    On small machines the page faults of large tensors take several times longer than their arithmetic.
    Call it before torch allocates, in training as in acting. It overrules `MALLOC_...` of the environment.

    Returns:
        Whether the settings took hold; False off Linux and with other C libraries, where it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 - elsewhere mallopt is missing or means something else
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return 0 not in [mallopt(number, value) for number, value in _SETTINGS.items()]


_sharers = 1


def share_memory(sharers: int) -> None:
    """Tell how many processes like this one share the machine's memory; what is loaded from now on heeds it."""
    global _sharers
    _sharers = sharers


def sharers() -> int:
    """How many processes share the machine's memory, this one among them."""
    return _sharers
