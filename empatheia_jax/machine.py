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


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_memory() -> None:
    """Keep freed memory for the next allocation, where the C library is glibc.

    By default each block above 32 MB goes back to the system when it is freed. A compiled program on the CPU takes such
    a block at each call, and every page of it anew: a sixth of the time of a small model's training step.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):  # another C library
        pass
