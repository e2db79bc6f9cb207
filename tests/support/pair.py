"""`python train.py` as one or two processes of a run, on this machine."""

import socket
import subprocess
import time

from support.trainer import Trainer


class Pair:
    """Runs of a `Trainer` as two processes of one device each, or as one process of two devices."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def start(self, workdir: str, processes: int, *flags: str) -> list[subprocess.Popen]:
        """Start a run in FOLDER/workdir by so many processes."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        started = []
        for process in range(processes):
            variables = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // processes}"}
            if processes > 1:
                variables |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(process),
                }
            started.append(self.trainer.start(workdir, *flags, **variables))
        return started

    def finish(self, started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
        """Wait for the processes of a run and return (exit code, stdout, stderr) of each."""
        return [self.trainer.finish(process) for process in started]

    def run(self, workdir: str, processes: int, *flags: str) -> list[str]:
        """Run in FOLDER/workdir by so many processes, which must end well, and return their stdout."""
        results = self.finish(self.start(workdir, processes, *flags))
        for code, _, err in results:
            assert code == 0, err[-3000:]
        return [out for _, out, _ in results]

    def wait_for(self, workdir: str, step: int, started: list[subprocess.Popen]) -> None:
        """Wait until a run has logged `step`; all its processes must live that long."""
        deadline = time.monotonic() + 240
        while self.trainer.last_step(workdir) < step:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in started), started[0].communicate()[1][-2000:]
            time.sleep(0.002)
