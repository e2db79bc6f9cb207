"""A run under `python -m empatheia_jax.runtime.supervisor`, for tests that kill its processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from support.trainer import DIALOGUES, Trainer


class Supervised:
    """A run under the supervisor, whose processes can be listed and killed."""

    def __init__(
        self, trainer: Trainer, workdir: str, processes: int, *flags: str, devices: int = 1, restarts: int = 5
    ):
        self.trainer, self.workdir, self.processes = trainer, workdir, processes
        self.folder = trainer.folder / workdir
        command = [
            sys.executable,
            "-m",
            "empatheia_jax.runtime.supervisor",
            "--processes",
            str(processes),
            "--restarts",
            str(restarts),
            "--backoff",
            "0.2",
            "--",
            str(trainer.config),
            "--workdir",
            str(self.folder),
            "--heartbeat",
            "10",
            *trainer.flags,
            *flags,
        ]
        environment = trainer.env | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        self.log = trainer.folder / f"{workdir}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=trainer.folder, stdout=log, stderr=log)

    def children(self) -> list[int]:
        """Return the ids of the run's living processes."""
        ids = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == self.process.pid and fields[0] != "Z":
                    ids.append(int(path.parent.name))
        return sorted(ids)

    def step(self) -> int:
        """Return the last step that the run has logged."""
        return self.trainer.last_step(self.workdir)

    def wait_for(self, step: int, seconds: float = 600) -> bool:
        """Wait until `step` is logged; return False where the run was over before."""
        deadline = time.monotonic() + seconds
        while self.step() < step:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)
        return True

    def kill_one(self, rng: np.random.Generator) -> bool:
        """Kill a random process and wait until all have ended; return False where not all were running."""
        children = self.children()
        if len(children) != self.processes:
            return False
        os.kill(int(rng.choice(children)), signal.SIGKILL)
        while self.process.poll() is None and set(children) & set(self.children()):
            time.sleep(0.02)
        return True

    def stop(self) -> str:
        """Ask the run to stop, which must end well, and return its log."""
        self.process.send_signal(signal.SIGTERM)
        return self.finish(300)

    def finish(self, seconds: float = 1800) -> str:
        """Wait for the run, which must end well, and return its log."""
        code = self.process.wait(timeout=seconds)
        log = self.log.read_text()
        assert code == 0, log[-4000:]
        return log


def assert_each_once(trainer: Trainer, workdir: str, epochs: int) -> None:
    """Assert that every step is there once, and that stage 0 takes every training Example once an epoch."""
    records = trainer.read(workdir, "examples.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    train = 2 * (DIALOGUES - round(0.2 * DIALOGUES))
    taken = [example for record in records if record["stage"] == 0 for example in record["examples"]]
    for epoch in range(epochs):
        assert len(set(taken[epoch * train : (epoch + 1) * train])) == train
