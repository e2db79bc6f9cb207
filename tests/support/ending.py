"""Commands that a signal ends: sent at a moment, to the process or to its whole group, and what is left of them."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.programs import ROOT, program_environment

SECONDS = 20  # for an end on a busy machine; it takes a tenth of a second


@dataclasses.dataclass
class Ended:
    """What is left of a command that got a signal."""

    code: int
    out: str
    err: str
    survivors: list[int]  # ids of its processes that still run
    seconds: float  # from the signal to the end

    @property
    def notices(self) -> list[str]:
        """The lines of stderr but progress and JAX's own."""
        lines = self.err.replace("\r", "\n").splitlines()
        return [line for line in lines if "interrupted" in line or "ended by" in line or "Error" in line]

    def assert_clean(self, code: int = 130) -> None:
        """Assert the exit code, one line about the end, no traceback, and no process that goes on."""
        assert self.code == code, (self.code, self.out[-500:], self.err[-2000:])
        assert len(self.notices) == 1 and "Traceback" not in self.err, self.err[-2000:]
        assert not self.survivors and self.seconds < SECONDS


def start(*words, **variables: str) -> subprocess.Popen:
    """Start a Python command at the head of a process group, as a shell does, with the usual answer to a hangup."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where the tests run under `nohup`
    try:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=program_environment(**variables),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    finally:
        signal.signal(signal.SIGHUP, inherited)


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children and theirs."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(child) for child in path.read_text().split()]
    return children + [other for child in children for other in descendants(child)]


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def end(
    process: subprocess.Popen, when: Callable[[], bool], number: int = signal.SIGINT, *, group: bool = True
) -> Ended | None:
    """Send a signal once `when` is true; None where the process ends before.

    Args:
      process: from `start`.
      when: called again and again.
      number: of the signal.
      group: send it to the whole process group, as a terminal does, and not to the process alone.
    """
    collected: dict[str, str] = {}

    def read(name: str) -> None:
        with getattr(process, name) as stream:
            collected[name] = stream.read()

    readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    while not when() and process.poll() is None:
        time.sleep(0.002)
    family = descendants(process.pid)
    was_running = process.poll() is None
    sent = time.monotonic()
    if was_running:
        (os.killpg if group else os.kill)(process.pid, number)
    try:
        code = process.wait(300)
    finally:
        process.kill()
    seconds = time.monotonic() - sent
    while any(map(is_running, family)) and time.monotonic() - sent < SECONDS:
        time.sleep(0.01)
    for reader in readers:
        reader.join()
    survivors = [pid for pid in family if is_running(pid)]
    ended = Ended(code, collected["stdout"], collected["stderr"], survivors, seconds)
    if not was_running or (code == 0 and seconds < 1 and not ended.notices):  # the signal met its last moments
        assert code == 0, ended.err[-2000:]
        return None
    return ended


def waits_for_signals(pid: int) -> bool:
    """Return whether a process has begun to wait for Ctrl-C itself (`runtime.signals`), before its slow imports."""
    with contextlib.suppress(OSError, IndexError):
        blocked = int(Path(f"/proc/{pid}/status").read_text().split("SigBlk:")[1].split()[0], 16)
        return bool(blocked >> (signal.SIGINT - 1) & 1)
    return False


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that is true from `seconds` after now on."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def leftovers(folder: Path) -> list[Path]:
    """Return what is half-written below a folder."""
    return [path for path in folder.rglob("*") if path.suffix in (".part", ".partial") or "incomplete." in path.name]
