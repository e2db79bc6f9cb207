"""Shows on stderr how far long work is, with rate and time to go."""

import sys
import time


class Progress:
    """One line on stderr: done, rate, time to go. Rewritten in place on a terminal, else printed every few seconds.

    Args:
      todo: number of items that this run does.
      total: number of items in all; the others were done by an earlier run.
      shown: whether anything is printed.
      name: first word of the line.
      unit: what the items are called.
    """

    def __init__(self, todo: int, total: int, *, shown: bool, name: str = "extract", unit: str = "utterances"):
        self.name, self.unit = name, unit
        self.todo, self.done_before, self.total, self.shown = todo, total - todo, total, shown
        self.done = self.rejected = 0
        self.start = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        if self.shown and self.done_before:
            print(f"{self.name}  {self.done_before} of {self.total} {self.unit} were done before", file=sys.stderr)
        return self

    def advance(self, done: int, rejected: int = 0) -> None:
        """Count items as done, and print the line where it is time to."""
        self.done += done
        self.rejected += rejected
        now = time.monotonic()
        if self.shown and (self.terminal or now - self.last > 5.0 or self.done == self.todo):
            self.last = now
            print(self._line(now), end="\r" if self.terminal else "\n", file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = self.done / max(now - self.start, 1e-9)
        seconds = (self.todo - self.done) / max(rate, 1e-9)
        done = self.done_before + self.done
        return f"{self.name}  {done}/{self.total} {self.unit}  {rate:.1f}/s  {seconds:.0f} s to go" + (
            f"  {self.rejected} rejected" if self.rejected else ""
        )

    def __exit__(self, *_) -> None:
        if self.shown and self.terminal and self.done:
            print(file=sys.stderr)
