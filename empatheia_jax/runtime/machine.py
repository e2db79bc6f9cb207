"""CPU cores, memory and packages of the machine that this process runs on."""

import contextlib
import ctypes
import importlib.metadata
import os


def usable_cores() -> int:
    """Return how many CPU cores this process may run on: under taskset or in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def release_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    glibc keeps gigabytes that many threads allocated and freed, for later allocations; on a host that holds a model
    that memory is needed at once.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        pass


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_memory() -> None:
    """Keep freed memory for the next allocation, where the C library is glibc.

    By default each block above 32 MB goes back to the system when it is freed. A compiled program on the CPU allocates
    such a block at each call and faults in every page of it: a sixth of the time of a small model's training step.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):  # another C library
        pass


def package_version(name: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return "not installed"
