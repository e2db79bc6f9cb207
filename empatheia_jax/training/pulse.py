"""What the processes of a run tell each other between steps: who was told to stop, who is slow, whether to save.

One gather of a few numbers, in all of them at the same step, about every two seconds.
"""

import time
from collections.abc import Callable

import numpy as np

from empatheia_jax import processes
from empatheia_jax.training.clock import Clock

SECONDS, MOST_STEPS = 2.0, 10  # between two gathers: whichever is sooner
SLOW = 1.5  # times the median of all processes, from which one is named
WORTH = 0.05  # seconds a step: smaller differences are none


def straggler(waits: np.ndarray, steps: np.ndarray) -> str:
    """A line on the process that is slower than the others; "" where none is.

    Steps end together, for all need all others' sums. So the host with slow data is seen by its wait, and a process
    whose own work between two exchanges is slow by its steps.

    Args:
      waits, steps: [processes], seconds a step spent waiting for data, and in the step itself.
    """
    found = []
    for what, values in (("waits for data", waits), ("steps", steps)):
        slowest, median = int(np.argmax(values)), float(np.median(values))
        if values[slowest] > max(SLOW * median, median + WORTH):
            found.append(f"process {slowest} {what} {values[slowest]:.2f} s a step, the median is {median:.2f} s")
    return "; ".join(found)


class Pulse:
    """Felt after every step; what it says is the same in every process.

    `stop`: a process was told to stop. `save`: the time between checkpoints is over. `slow`: see `straggler`.
    """

    def __init__(self, wanted: Callable[[], bool], clock: Clock, checkpoint_seconds: float = 0.0):
        """`wanted`: whether this process was told to stop; `checkpoint_seconds` 0: never `save`."""
        self._wanted, self._clock, self._every = wanted, clock, checkpoint_seconds
        self.stop, self.save, self.slow = False, False, ""
        self._left = self._interval = 1
        self._saved, self._shares = time.monotonic(), self._spent()

    def _spent(self) -> np.ndarray:
        return np.array([self._clock.shares.get(name, 0.0) for name in ("wait", "steps")])

    def saved(self) -> None:
        """A checkpoint was just begun."""
        self._saved = time.monotonic()

    def feel(self) -> None:
        """After a step, in every process."""
        self.save, self.slow = False, ""
        self._left -= 1
        if self._left:
            return
        due = bool(self._every) and time.monotonic() - self._saved >= self._every
        spent = self._spent()
        mine = np.array([self._wanted(), due, *(spent - self._shares) / self._interval])
        each = processes.of_each(mine)
        self._shares = spent
        self.stop, self.save = bool(each[:, 0].any()), bool(each[:, 1].any())
        self.slow = straggler(each[:, 2], each[:, 3])
        several = len(each) > 1
        self._interval = int(np.clip(SECONDS / max(each[:, 2:].sum(1).max(), 1e-3), 1, MOST_STEPS)) if several else 1
        self._left = self._interval
