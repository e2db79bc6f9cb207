"""Wall-clock accounts of a run: seconds by activity, tokens per second, time left."""

import time
from collections.abc import Iterable, Iterator


class Clock:
    """Seconds of a run by activity. `with clock("data"):` adds to a named share; blocks may nest."""

    def __init__(self):
        self.started = time.monotonic()
        self.shares: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._last_change = self.started  # when a block last began or ended

    def __call__(self, name: str) -> "Clock":
        self._last_change = time.monotonic()
        self._open.append((name, self._last_change))
        return self

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_) -> None:
        name, start = self._open.pop()
        self._last_change = time.monotonic()
        self.shares[name] = self.shares.get(name, 0.0) + self._last_change - start

    def iterate(self, name: str, items: Iterable) -> Iterator:
        """Yield the items; the time spent waiting for each is added to the share `name`."""
        iterator, end = iter(items), object()
        while True:
            with self(name):
                item = next(iterator, end)
            if item is end:
                return
            yield item

    def innermost(self) -> tuple[str, float]:
        """Return (innermost open block or "", seconds since a block last began or ended); safe from any thread."""
        blocks = self._open[-1:]
        return blocks[0][0] if blocks else "", time.monotonic() - self._last_change

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started


class Rate:
    """Units (tokens) per second since the last reading, and the seconds left at the average pace of steps."""

    def __init__(self, total: int, done: int = 0):
        """Start counting.

        Args:
          total: steps in all.
          done: how many of them were finished before (a resumed stage).
        """
        self.total, self._first, self._done = total, done, done
        self._start = self._last = time.monotonic()
        self._units = 0.0

    def add(self, units: float) -> None:
        """Count the units of one step."""
        self._units += units
        self._done += 1

    def read(self) -> tuple[float, float]:
        """Return (units per second since the last read, seconds left)."""
        now = time.monotonic()
        rate = self._units / max(now - self._last, 1e-9)
        left = (self.total - self._done) * (now - self._start) / max(self._done - self._first, 1)
        self._units, self._last = 0.0, now
        return rate, left
