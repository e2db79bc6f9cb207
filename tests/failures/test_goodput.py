"""A run's time by activity, over restarts; the slowest process; what processes agree on between steps."""

import json
import time

import numpy as np
import pytest

from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.monitoring.goodput import Goodput, seconds_by_activity, summary
from empatheia_jax.monitoring.sync import ProcessSync, straggler


def session(began, seen, first, last, *, end="", **seconds):
    return {"began": began, "seen": seen, "from_step": first, "to_step": last, "end": end, "seconds": seconds}


def test_every_second_of_a_run_is_in_the_account_once(seed):
    rng = np.random.default_rng(seed)
    sessions, now, step = [], 1000.0, 0
    for number in range(6):
        spent = {name: float(rng.uniform(1, 9)) for name in ("steps", "compile", "wait", "checkpoint")}
        length, done = sum(spent.values()) + rng.uniform(0, 3), int(rng.integers(5, 20))
        end = "stopped" if number == 2 else "done" if number == 5 else ""
        sessions.append(session(now, now + length, step, step + done, end=end, **spent))
        now += length + rng.uniform(1, 5)
        step += int(rng.integers(1, done)) if not end else done
    spent = seconds_by_activity(sessions)
    wall = spent.pop("wall")
    assert sum(spent.values()) == pytest.approx(wall)
    gaps = sum(b["began"] - a["seen"] for a, b in zip(sessions, sessions[1:], strict=False) if not a["end"])
    assert spent["restart"] == pytest.approx(gaps)  # none between a requested stop and the resume
    redone = sum(
        (a["to_step"] - b["from_step"]) * a["seconds"]["steps"] / (a["to_step"] - a["from_step"])
        for a, b in zip(sessions, sessions[1:], strict=False)
    )
    assert spent["redone"] == pytest.approx(redone)
    assert spent["steps"] == pytest.approx(sum(s["seconds"]["steps"] for s in sessions) - redone)
    assert summary(sessions).startswith(f"{spent['steps'] / wall:.1%} of {wall:.0f} s in steps that count, 5 restarts")


def test_a_killed_start_is_followed_by_the_next_in_the_file(tmp_path):
    clock = Clock()
    with clock("steps"):
        time.sleep(0.05)
    first = Goodput(tmp_path, clock, 0)
    first.record(7)  # sooner than the next write
    assert json.loads((tmp_path / "goodput.json").read_text())[0]["to_step"] == 0
    first.record(9, "stopped")
    second = Goodput(tmp_path, Clock(), 9)
    second.record(12, "done")
    sessions = json.loads((tmp_path / "goodput.json").read_text())
    assert [(s["from_step"], s["to_step"], s["end"]) for s in sessions] == [(0, 9, "stopped"), (9, 12, "done")]
    assert sessions[0]["seconds"]["steps"] >= 0.05
    Goodput(tmp_path, Clock(), 12, writes=False).record(15, "done")
    assert json.loads((tmp_path / "goodput.json").read_text()) == sessions


def test_the_slowest_process_is_named_and_only_when_it_is_slow():
    equal = np.array([0.50, 0.52, 0.49, 0.51])
    assert straggler(0 * equal, equal) == ""
    assert straggler(np.array([0.001, 0.02, 0.001, 0.001]), equal) == ""  # many times a median of almost nothing
    assert straggler(np.array([0.0, 0.0, 0.4, 0.0]), equal) == (
        "process 2 waits for data 0.40 s a step, the median is 0.00 s"
    )
    assert "process 1 steps 0.90" in straggler(0 * equal, np.array([0.5, 0.9, 0.5, 0.5]))
    assert straggler(np.array([5.0]), np.array([9.0])) == ""  # a single process has nothing to be compared with


def test_a_pulse_says_stop_once_asked_and_save_when_time_is_over():
    requested, clock = [False], Clock()
    sync = ProcessSync(lambda: requested[0], clock, checkpoint_seconds=0.2)
    sync.poll()
    assert not sync.stop and not sync.save
    time.sleep(0.25)
    sync.poll()
    assert sync.save
    sync.note_save()
    sync.poll()
    assert not sync.save
    requested[0] = True
    sync.poll()
    assert sync.stop
