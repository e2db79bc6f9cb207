"""Supervise a run on this machine: start its processes, and start all of them again when one is lost.

python -m empatheia_jax.runtime.supervisor --processes 2 -- configs/tiny.py --workdir runs/tiny --data.rows 4

The arguments after `--` are those of `train.py`.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from empatheia_jax.runtime import program, signals

if __name__ == "__main__":  # before the imports that take seconds
    program.begin("supervisor", "--resume goes on from the newest checkpoint, if there is one", survives_hangup=True)

from empatheia_jax.checkpoints.manifest import checkpoint_folders
from empatheia_jax.runtime.peers import LOST

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
BAD_INPUT = 2  # exit code of train.py
SETTLE = 5.0  # seconds for the other processes to end by themselves once one is lost; they cannot save without it
MAX_BACKOFF = 60.0  # seconds
POLL = 0.05  # seconds between two looks at the processes


def log(text: str) -> None:
    """Print a line of the supervisor to stderr."""
    print(f"launch   {text}", file=sys.stderr, flush=True)


def _die_with_parent() -> None:
    """Have this process end with its parent (Linux), so that a killed supervisor leaves no process that trains on.

    Runs between fork and exec.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _relay(stream, prefix: str, out) -> None:
    for line in stream:
        with contextlib.suppress(OSError, ValueError):
            out.write(prefix + line)
            out.flush()


def _describe_exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@dataclasses.dataclass
class Supervisor:
    """Starts and watches the processes of one run: either all of them run, or none."""

    processes: int
    arguments: list[str]  # of train.py
    restarts: int = 5  # most restarts in a row without a new checkpoint
    grace: float = 60.0  # seconds that the processes have to save after a SIGTERM
    backoff: float = 1.0  # seconds before the first restart, doubled before each that follows
    port: int = 0  # of the coordinator; 0: a free one for each start
    restarted: int = 0  # restarts so far
    lost_seconds: float = 0.0  # work done again and pauses, so far

    def __post_init__(self):
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--workdir", type=Path, required=True)
        self.folder = parser.parse_known_args(self.arguments)[0].workdir
        self.arguments = [argument for argument in self.arguments if argument != "--resume"]
        self._running: list[subprocess.Popen] = []
        self._relays: list[threading.Thread] = []
        self._stop_signal: int | None = None  # the signal that asked the run to stop

    def run(self, resume: bool = False) -> int:
        """Supervise the run to its end.

        Args:
          resume: whether the first start continues an existing run.
        Returns:
          The exit code: 130 after Ctrl-C, else 0, or that of the process that was lost first (128 + signal number).
        """
        signals.respond_with(self._on_signal)
        failures = 0  # in a row without a new checkpoint
        while True:
            began, step_before = time.time(), self._newest_checkpoint()
            self._start(resume)
            lost = self._wait()
            self._end(SETTLE)
            if lost is None or self._stop_signal is not None:
                return self._code(lost)
            process, code = lost
            step = self._newest_checkpoint()
            failures = 1 if step > step_before else failures + 1
            wasted = time.time() - self._saved_at(began)
            reason = f"process {process} ended with {_describe_exit(code)}, {time.time() - began:.0f} s after the start"
            if code == BAD_INPUT and step == step_before:
                log(f"{reason}: its arguments or its data are wrong, another start would not help")
                return code
            if failures > self.restarts:
                log(f"{reason}; no new checkpoint in {self.restarts} restarts: giving up")
                return self._code(lost)
            self.restarted += 1
            pause = min(self.backoff * 2 ** (failures - 1), MAX_BACKOFF)
            self.lost_seconds += wasted + pause
            log(
                f"{reason}; restart {failures} of {self.restarts} in {pause:g} s, from checkpoint {step or 'none'}: "
                f"{wasted:.0f} s of work are done again"
            )
            self._sleep(pause)
            if self._stop_signal is not None:
                return self._code(lost)
            resume = (self.folder / "config.json").exists()

    def _newest_checkpoint(self) -> int:
        checkpoints = checkpoint_folders(self.folder / "checkpoints")
        return int(checkpoints[-1].name) if checkpoints else 0

    def _saved_at(self, began: float) -> float:
        """Return when the newest checkpoint of this start was complete; `began` where it has written none."""
        checkpoints = checkpoint_folders(self.folder / "checkpoints")
        return max(began, checkpoints[-1].stat().st_mtime) if checkpoints else began

    def _start(self, resume: bool) -> None:
        port = self.port
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self._running, self._relays = [], []
        for process in range(self.processes):
            cluster = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(self.processes),
                "JAX_PROCESS_ID": str(process),
            }
            started = subprocess.Popen(
                [sys.executable, str(TRAIN), *self.arguments, *(["--resume"] if resume else [])],
                env=os.environ | (cluster if self.processes > 1 else {}),
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which forwards it once
                preexec_fn=_die_with_parent,
            )
            self._running.append(started)
            prefix = f"{process}| " if self.processes > 1 else ""
            for stream, out in ((started.stdout, sys.stdout), (started.stderr, sys.stderr)):
                relay = threading.Thread(target=_relay, args=(stream, prefix, out), daemon=True)
                relay.start()
                self._relays.append(relay)

    def _wait(self) -> tuple[int, int] | None:
        """Wait until all processes ended well, one is lost, or `grace` is over after a stop signal.

        Returns:
          None where all ended well, else (process, exit code) of the lost one.
        """
        deadline = None
        while True:
            codes = [process.poll() for process in self._running]
            failed = [(number, code) for number, code in enumerate(codes) if code]
            if failed:
                # A process that died by itself is the cause; those that lost a peer followed it.
                return min(failed, key=lambda pair: (pair[1] == LOST, pair[0]))
            if None not in codes:
                return None
            if self._stop_signal is not None:
                deadline = deadline or time.monotonic() + self.grace
                if time.monotonic() > deadline:
                    return codes.index(None), -signal.SIGKILL
            time.sleep(POLL)

    def _end(self, grace: float) -> None:
        """End the processes that still run: SIGTERM, and SIGKILL `grace` seconds later."""
        deadline = time.monotonic() + grace
        self._forward(signal.SIGTERM)
        while any(process.poll() is None for process in self._running) and time.monotonic() < deadline:
            time.sleep(POLL)
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()
        for relay in self._relays:
            relay.join(timeout=5)

    def _forward(self, number: int) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(number)

    def _on_signal(self, number: int) -> int | None:
        if self._stop_signal is not None:  # a second signal: the end kills the processes
            return 128 + number
        self._stop_signal = number
        signals.say(
            f"launch   {signal.Signals(number).name}: passed on, waiting up to {self.grace:g} s for the checkpoint"
        )
        self._forward(signal.SIGTERM)
        return None

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._stop_signal is None and time.monotonic() < deadline:
            time.sleep(POLL)

    def _code(self, lost: tuple[int, int] | None) -> int:
        if self._stop_signal == signal.SIGINT:
            return 128 + signal.SIGINT
        if lost is None:
            return 0
        return lost[1] if lost[1] > 0 else 128 - lost[1]


def main(argv: list[str]) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m empatheia_jax.runtime.supervisor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--restarts", type=int, default=5, help="most restarts in a row without a new checkpoint (%(default)s)"
    )
    parser.add_argument("--grace", type=float, default=60.0, help="seconds to save after SIGTERM (%(default)s)")
    parser.add_argument(
        "--backoff", type=float, default=1.0, help="seconds before a restart, doubled each time (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the coordinator (default: a free one)")
    parser.add_argument("train", nargs=argparse.REMAINDER, metavar="-- ...", help="arguments of train.py")
    args = parser.parse_args(argv)
    arguments = args.train[1:] if args.train[:1] == ["--"] else args.train
    if args.processes < 1 or args.restarts < 0:
        parser.error("--processes must be 1 or more, --restarts 0 or more")
    if not any(argument == "--workdir" or argument.startswith("--workdir=") for argument in arguments):
        parser.error("after -- come the arguments of train.py: a config and --workdir DIR at least")
    began = time.monotonic()
    supervisor = Supervisor(args.processes, arguments, args.restarts, args.grace, args.backoff, args.port)
    code = supervisor.run("--resume" in arguments)
    log(
        f"exit code {code} after {time.monotonic() - began:.0f} s, {supervisor.restarted} restarts, "
        f"{supervisor.lost_seconds:.0f} s lost to them"
    )
    return code


if __name__ == "__main__":
    program.finish(main, sys.argv[1:])
