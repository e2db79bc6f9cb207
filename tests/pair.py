"""`python train.py` as two processes of one run, on this machine."""

import socket
import subprocess
import time

from trainer import Trainer


class Pair:
    """Two processes of one run, or one; a device each, or both."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def start(self, workdir: str, processes: int, *more: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        started, plain = [], self.trainer.env
        for process in range(processes):
            devices = f"--xla_force_host_platform_device_count={2 // processes}"
            self.trainer.env = plain | {"XLA_FLAGS": devices}
            if processes > 1:
                self.trainer.env |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(process),
                }
            started.append(self.trainer.start(workdir, *more))
        self.trainer.env = plain
        return started

    def finish(self, started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
        return [self.trainer.finish(process) for process in started]

    def run(self, workdir: str, processes: int, *more: str) -> list[str]:
        ends = self.finish(self.start(workdir, processes, *more))
        for code, _, err in ends:
            assert code == 0, err[-3000:]
        return [out for _, out, _ in ends]

    def wait_for(self, workdir: str, step: int, started: list[subprocess.Popen]) -> None:
        deadline = time.monotonic() + 240
        while not any(r["step"] >= step for r in self.trainer.read(workdir, "examples.jsonl")[-1:]):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in started), started[0].communicate()[1][-2000:]
            time.sleep(0.002)
