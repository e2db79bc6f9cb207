"""The watchdog ends a run that hangs, with code 75 and the stacks; parts that may take long are not ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, threading, time
from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.monitoring.watchdog import Watchdog

def wait_for_ever(lock):
    lock.acquire()

part, seconds, moving = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "moving"
clock = Clock()
watchdog = Watchdog(clock, seconds)
lock = threading.Lock()
lock.acquire()
with clock("stage"):
    for _ in range(20 if moving else 1):
        with clock(part):
            if moving:
                time.sleep(0.1)
            elif part == "compile":
                time.sleep(2.0)
            else:
                wait_for_ever(lock)
watchdog.close()
print("done")
"""


def run(part: str, seconds: str, moving: str = "still") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, part, seconds, moving],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("part", ["steps", "wait"])
def test_what_hangs_is_ended_and_said(part):
    done = run(part, "0.5")
    assert done.returncode == 75
    assert "wait_for_ever" in done.stderr  # where it hung
    line = done.stderr.splitlines()[-1]
    assert line.startswith("train.py: nothing has moved for ") and f"(in {part!r})" in line and "--resume" in line


@pytest.mark.parametrize("part, seconds, moving", [("compile", "0.5", "still"), ("steps", "0.5", "moving")])
def test_what_moves_or_may_take_long_goes_on(part, seconds, moving):
    done = run(part, seconds, moving)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
