"""A watchdog that ends a run whose main thread hangs: on a file system, a collective or a lock.

JAX's heartbeats run in threads of their own and continue while the program makes no progress. The watchdog reads the
run's clock, where every wait for data, step, gather and checkpoint begins and ends.
"""

import faulthandler
import os
import threading

from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.runtime.peers import LOST

STALL = 1800  # seconds
WATCHED = ("wait", "steps", "agree", "checkpoint", "evaluate")  # compiling and loading may take as long as they like


class Watchdog:
    """A thread that ends the process with exit code 75 when it hangs.

    Before it does, it writes the stacks of all threads and one line on stderr.
    """

    def __init__(self, clock: Clock, seconds: float):
        """Start watching.

        Args:
          clock: the run's.
          seconds: how long one block of `WATCHED` may take; 0: for ever.
        """
        self._clock, self._seconds = clock, seconds
        self._closed = threading.Event()
        if seconds > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            part, seconds = self._clock.innermost()
            if part in WATCHED and seconds > self._seconds:
                self._end(part, seconds)

    def _end(self, part: str, seconds: float) -> None:
        try:
            faulthandler.dump_traceback()
            line = f"train.py: nothing has moved for {seconds:.0f} s (in {part!r}); stacks above, --resume to go on\n"
            os.write(2, line.encode())
        finally:
            os._exit(LOST)
