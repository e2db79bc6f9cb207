"""Pools of worker processes that end with this one, however it ends."""

import concurrent.futures
import multiprocessing
import multiprocessing.context
import multiprocessing.resource_tracker
import os
import threading
from collections.abc import Callable

from empatheia_jax.runtime import signals


class _Worker(multiprocessing.context.SpawnProcess):
    """A process that an end by a signal either sees or that is not started."""

    def start(self) -> None:
        with signals.undisturbed():
            super().start()


class _Spawn(multiprocessing.context.SpawnContext):
    """Spawned, not forked: this process may have started JAX's threads."""

    Process = _Worker  # pyright: ignore[reportAssignmentType]: typed as the class of the default context


def worker_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple = ()
) -> concurrent.futures.ProcessPoolExecutor:
    """Return a pool of new processes; use it in a `with`.

    Args:
      workers: number of processes.
      initializer: called in each process first.
      arguments: of the initializer.
    """
    multiprocessing.resource_tracker.ensure_running()
    signals.block()  # Python 3.11's tracker has unblocked them; workers inherit the block
    return concurrent.futures.ProcessPoolExecutor(workers, _Spawn(), _start, (initializer, arguments))


def _start(initializer: Callable[..., None] | None, arguments: tuple) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only a pool calls this
    # Without this thread a worker would wait forever after the main process was killed with SIGKILL.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if initializer is not None:
        initializer(*arguments)
