"""Goodput: the share of a run's wall time that went into steps that count, over all its restarts.

DIR/goodput.json has an object for each start of `train.py`, called a session: when it began, when it last wrote, its
first and last step, and its seconds by activity. It is rewritten every few seconds, so a kill loses no more of it.
"""

import time
from pathlib import Path

from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.json_files import read_json

WRITE_SECONDS = 5.0  # between two writes of the file
FILE_NAME = "goodput.json"


class Goodput:
    """The record of one session, appended to those of the sessions before it."""

    def __init__(self, folder: Path, clock: Clock, step: int, writes: bool = True):
        """Read the earlier sessions and begin a new one.

        Args:
          folder: the run's.
          clock: measures this session.
          step: the step from which this session continues.
          writes: whether this process writes the file; one process of a run does.
        """
        self._path, self._clock, self._writes = folder / FILE_NAME, clock, writes
        self.sessions: list[dict] = read_json(self._path, list) if writes and self._path.exists() else []
        began = time.time() - clock.elapsed
        self.sessions.append({"began": began, "seen": began, "from_step": step, "to_step": step, "end": ""})
        self._written = -WRITE_SECONDS
        self.record(step)

    def record(self, step: int, end: str = "") -> None:
        """Record the current step, in the file at most every `WRITE_SECONDS` unless the session ends.

        Args:
          step: the last finished step.
          end: how the session ended by itself ("done", "stopped"); "" while it runs.
        """
        now = time.monotonic()
        if not self._writes or (now - self._written < WRITE_SECONDS and not end):
            return
        shares = {name: round(seconds, 3) for name, seconds in self._clock.shares.items()}
        self.sessions[-1] |= {"seen": time.time(), "to_step": step, "end": end, "seconds": shares}
        write_json(self._path, self.sessions)
        self._written = now


def seconds_by_activity(sessions: list[dict]) -> dict[str, float]:
    """Return the seconds of a run by activity; all of them add up to "wall".

    "steps" are those that count. "redone" are steps after the checkpoint that a restart went back to, at the pace of
    the session that lost them. "restart" is the time from the last write of a session that did not end by itself to
    the beginning of the next; the time between a requested stop and the resume is not counted.
    """
    spent: dict[str, float] = {"steps": 0.0, "redone": 0.0, "restart": 0.0}
    wall = 0.0
    for number, session in enumerate(sessions):
        wall += session["seen"] - session["began"]
        for name, seconds in session.get("seconds", {}).items():
            spent[name] = spent.get(name, 0.0) + seconds
        if number:
            previous = sessions[number - 1]
            if not previous["end"]:
                gap = max(session["began"] - previous["seen"], 0.0)
                spent["restart"] += gap
                wall += gap
            steps = previous["to_step"] - previous["from_step"]
            lost_steps = min(max(previous["to_step"] - session["from_step"], 0), steps)
            redone = lost_steps * previous.get("seconds", {}).get("steps", 0.0) / max(steps, 1)
            spent["steps"] -= redone
            spent["redone"] += redone
    return spent | {"other": max(wall - sum(spent.values()), 0.0), "wall": wall}


def summary(sessions: list[dict]) -> str:
    """Return one line: the share of steps that count, and where the rest went."""
    spent = seconds_by_activity(sessions)
    wall = max(spent.pop("wall"), 1e-9)
    rest = sorted(((seconds, name) for name, seconds in spent.items() if name != "steps"), reverse=True)
    lost = "  ".join(f"{name} {seconds / wall:.1%}" for seconds, name in rest if seconds / wall >= 0.001)
    return f"{spent['steps'] / wall:.1%} of {wall:.0f} s in steps that count, {len(sessions) - 1} restarts; {lost}"
