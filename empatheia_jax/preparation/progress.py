"""How far long work is: rate and time to go, on stderr."""

import sys
import time


class Progress:
    """One line on stderr: done, rate, time to go. Rewritten in place on a terminal, else printed now and then."""

    def __init__(self, todo: int, total: int, shown: bool, what: str = "extract", unit: str = "utterances"):
        self.what, self.unit = what, unit
        self.todo, self.before, self.total, self.shown = todo, total - todo, total, shown
        self.done = self.rejected = 0
        self.start = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        if self.shown and self.before:
            print(f"{self.what}  {self.before} of {self.total} {self.unit} were done before", file=sys.stderr)
        return self

    def advance(self, done: int, rejected: int = 0) -> None:
        self.done += done
        self.rejected += rejected
        now = time.monotonic()
        if self.shown and (self.terminal or now - self.last > 5.0 or self.done == self.todo):
            self.last = now
            print(self.line(now), end="\r" if self.terminal else "\n", file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.todo - self.done) / max(rate, 1e-9)
        return f"{self.what}  {self.before + self.done}/{self.total} {self.unit}  {rate:.1f}/s  {left:.0f} s to go" + (
            f"  {self.rejected} rejected" if self.rejected else ""
        )

    def __exit__(self, *_) -> None:
        if self.shown and self.terminal and self.done:
            print(file=sys.stderr)
