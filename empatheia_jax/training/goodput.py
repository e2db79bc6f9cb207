"""Goodput: which share of a run's wall time went into steps that count, over all its restarts.

DIR/goodput.json has an object for each time that `train.py` was started: when it began, when it was last seen, from
which step to which, and seconds by what they went into. It is rewritten every few seconds, so a kill costs no more.
"""

import json
import time
from pathlib import Path

from empatheia_jax.atomic import write_json
from empatheia_jax.training.clock import Clock

EVERY = 5.0  # seconds between two writings
NAME = "goodput.json"


class Goodput:
    """The account of one start, written after those before it."""

    def __init__(self, folder: Path, clock: Clock, step: int, writes: bool = True):
        """`step` is where the run goes on; one process of a run `writes`."""
        self._path, self._clock, self._writes = folder / NAME, clock, writes
        self.sessions: list[dict] = json.loads(self._path.read_text()) if writes and self._path.exists() else []
        began = time.time() - clock.elapsed
        self.sessions.append({"began": began, "seen": began, "from_step": step, "to_step": step, "end": ""})
        self._written = -EVERY
        self.note(step)

    def note(self, step: int, end: str = "") -> None:
        """Where the run stands; `end` says how it ended by itself ("done", "stopped")."""
        now = time.monotonic()
        if not self._writes or (now - self._written < EVERY and not end):
            return
        shares = {name: round(seconds, 3) for name, seconds in self._clock.shares.items()}
        self.sessions[-1] |= {"seen": time.time(), "to_step": step, "end": end, "seconds": shares}
        write_json(self._path, self.sessions)
        self._written = now


def account(sessions: list[dict]) -> dict[str, float]:
    """Seconds of a run by what they went into; all of them add up to "wall".

    "steps" are those that count. "redone" are steps after the checkpoint that a restart went back to, at the pace of
    the start that lost them. "restart" is the time between being last seen and beginning again, after an end that was
    not wished; between a stop that was and the resume no time runs.
    """
    spent: dict[str, float] = {"steps": 0.0, "redone": 0.0, "restart": 0.0}
    wall = 0.0
    for number, session in enumerate(sessions):
        wall += session["seen"] - session["began"]
        for name, seconds in session.get("seconds", {}).items():
            spent[name] = spent.get(name, 0.0) + seconds
        if number:
            before = sessions[number - 1]
            if not before["end"]:
                gap = max(session["began"] - before["seen"], 0.0)
                spent["restart"] += gap
                wall += gap
            taken = before["to_step"] - before["from_step"]
            lost = min(max(before["to_step"] - session["from_step"], 0), taken)
            redone = lost * before.get("seconds", {}).get("steps", 0.0) / max(taken, 1)
            spent["steps"] -= redone
            spent["redone"] += redone
    return spent | {"other": max(wall - sum(spent.values()), 0.0), "wall": wall}


def summary(sessions: list[dict]) -> str:
    """One line: the share of steps that count, and where the rest went."""
    spent = account(sessions)
    wall = max(spent.pop("wall"), 1e-9)
    rest = sorted(((seconds, name) for name, seconds in spent.items() if name != "steps"), reverse=True)
    lost = "  ".join(f"{name} {seconds / wall:.1%}" for seconds, name in rest if seconds / wall >= 0.001)
    return f"{spent['steps'] / wall:.1%} of {wall:.0f} s in steps that count, {len(sessions) - 1} restarts; {lost}"
