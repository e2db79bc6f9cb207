"""What the processes of a run agree on between steps: whether to stop, whether to save, which process is slow.

All of them gather a few numbers at the same step, about every two seconds.
"""

import time
from collections.abc import Callable

import numpy as np

from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.runtime import processes

SYNC_SECONDS, SYNC_STEPS = 2.0, 10  # between two gathers: whichever is sooner
SLOW_RATIO = 1.5  # a process is slow if it takes so many times the median of all processes,
SLOW_SECONDS = 0.05  # and so many seconds a step more


def straggler(waits: np.ndarray, steps: np.ndarray) -> str:
    """Return a line on the process that is slower than the others; "" where none is.

    Steps end together, because each needs the sums of all processes. So a host with slow data shows in its waits, and
    a process whose own work between two collectives is slow in its steps.

    Args:
      waits: float [processes], seconds a step spent waiting for data.
      steps: float [processes], seconds a step spent in the step itself.
    """
    lines = []
    for activity, values in (("waits for data", waits), ("steps", steps)):
        slowest, median = int(np.argmax(values)), float(np.median(values))
        if values[slowest] > max(SLOW_RATIO * median, median + SLOW_SECONDS):
            lines.append(f"process {slowest} {activity} {values[slowest]:.2f} s a step, the median is {median:.2f} s")
    return "; ".join(lines)


class ProcessSync:
    """Flags that are the same in every process, updated by `poll` after every step.

    Attributes:
      stop: whether any process was told to stop.
      save: whether the time between checkpoints is over.
      slow: a line on the slowest process (`straggler`), or "".
    """

    def __init__(self, stop_requested: Callable[[], bool], clock: Clock, checkpoint_seconds: float = 0.0):
        """Start the intervals.

        Args:
          stop_requested: returns whether this process was told to stop.
          clock: the run's.
          checkpoint_seconds: time between checkpoints; 0: `save` is never set.
        """
        self._stop_requested, self._clock, self._checkpoint_seconds = stop_requested, clock, checkpoint_seconds
        self.stop, self.save, self.slow = False, False, ""
        self._steps_left = self._interval = 1
        self._saved_at, self._shares = time.monotonic(), self._read_clock()

    def _read_clock(self) -> np.ndarray:
        return np.array([self._clock.shares.get(name, 0.0) for name in ("wait", "steps")])

    def note_save(self) -> None:
        """Restart the time between checkpoints: one was just begun."""
        self._saved_at = time.monotonic()

    def poll(self) -> None:
        """Update the flags; every process calls this after every step."""
        self.save, self.slow = False, ""
        self._steps_left -= 1
        if self._steps_left:
            return
        due = bool(self._checkpoint_seconds) and time.monotonic() - self._saved_at >= self._checkpoint_seconds
        shares = self._read_clock()
        local = np.array([self._stop_requested(), due, *(shares - self._shares) / self._interval])
        gathered = processes.allgather(local)  # [processes, 4]
        self._shares = shares
        self.stop, self.save = bool(gathered[:, 0].any()), bool(gathered[:, 1].any())
        self.slow = straggler(gathered[:, 2], gathered[:, 3])
        steps = np.clip(SYNC_SECONDS / max(gathered[:, 2:].sum(1).max(), 1e-3), 1, SYNC_STEPS)
        self._steps_left = self._interval = int(steps) if len(gathered) > 1 else 1
