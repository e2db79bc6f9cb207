"""Where the time of a run goes: tokens a second, time left, and shares of compile, data and steps."""

import time
from collections.abc import Iterable, Iterator


class Clock:
    """Wall-clock account of a run in seconds. `with clock("data"):` adds to a named share; blocks may nest."""

    def __init__(self):
        self.started = time.monotonic()
        self.shares: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._moved = self.started  # when a block last began or ended

    def __call__(self, name: str) -> "Clock":
        self._moved = time.monotonic()
        self._open.append((name, self._moved))
        return self

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_) -> None:
        name, start = self._open.pop()
        self._moved = time.monotonic()
        self.shares[name] = self.shares.get(name, 0.0) + self._moved - start

    def waiting(self, name: str, items: Iterable) -> Iterator:
        """The items; the time until each is there is added to a share."""
        iterator, end = iter(items), object()
        while True:
            with self(name):
                item = next(iterator, end)
            if item is end:
                return
            yield item

    def standing(self) -> tuple[str, float]:
        """(innermost open block or "", seconds since a block last began or ended); any thread may ask."""
        opened = self._open[-1:]
        return opened[0][0] if opened else "", time.monotonic() - self._moved

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started


class Rate:
    """Units (tokens) a second since the last reading, and the seconds left at the average pace of steps.

    `total` steps in all, of which `done` were done before (a resumed stage).
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self._first, self._done = total, done, done
        self._start = self._last = time.monotonic()
        self._units = 0.0

    def add(self, units: float) -> None:
        """Count work of one step."""
        self._units += units
        self._done += 1

    def read(self) -> tuple[float, float]:
        """(units a second since the last read, seconds left)."""
        now = time.monotonic()
        rate = self._units / max(now - self._last, 1e-9)
        left = (self.total - self._done) * (now - self._start) / max(self._done - self._first, 1)
        self._units, self._last = 0.0, now
        return rate, left
