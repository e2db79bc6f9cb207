"""What the machine under this process gives."""

import os


def usable_cores() -> int:
    """CPU cores that this process may run on: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
