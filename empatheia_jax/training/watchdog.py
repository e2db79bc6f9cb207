"""The end of a run that hangs although its process answers: a file system, a collective, a lock that never comes back.

JAX's heartbeats run in threads of their own and go on while the program stands still. This looks at the run's clock:
every wait for data, step, gather and checkpoint begins and ends there.
"""

import faulthandler
import os
import threading

from empatheia_jax.peers import LOST
from empatheia_jax.training.clock import Clock

STALL = 1800  # seconds
WATCHED = ("wait", "steps", "agree", "checkpoint", "evaluate")  # compiling and loading may take as long as they like


class Watchdog:
    """Ends the process with exit code 75 once it has stood in one part of `WATCHED` for `seconds`; 0: never.

    Before it does, the stacks of all threads and one line are written on stderr: where it hung.
    """

    def __init__(self, clock: Clock, seconds: float):
        self._clock, self._seconds = clock, seconds
        self._over = threading.Event()
        if seconds > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 4, 10.0)):
            part, seconds = self._clock.standing()
            if part in WATCHED and seconds > self._seconds:
                self._end(part, seconds)

    def _end(self, part: str, seconds: float) -> None:
        try:
            faulthandler.dump_traceback()
            line = f"train.py: nothing has moved for {seconds:.0f} s (in {part!r}); stacks above, --resume to go on\n"
            os.write(2, line.encode())
        finally:
            os._exit(LOST)
