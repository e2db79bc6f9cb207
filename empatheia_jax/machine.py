"""What the machine under this process gives."""

import ctypes
import os


def usable_cores() -> int:
    """CPU cores that this process may run on: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def release_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    It keeps what many threads allocated and freed, by the gigabyte, for later; on a host that holds a model there is no
    later.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        pass
