"""Hold the main thread as a compilation does, in C and behind a swallowed interrupt: ... FOLDER MODE.

MODE "file" has a temporary file open, "workers" has worker processes besides, "graceful" goes on after a first signal,
"print" prints until it is told to stop by the file FOLDER/enough.
"""

import sys
from pathlib import Path

from empatheia_jax.runtime import program

if __name__ == "__main__":
    program.begin("hold", "try again", survives_hangup=sys.argv[2] == "graceful")

import ctypes
import time

from empatheia_jax.runtime import signals
from empatheia_jax.runtime.atomic import replacing
from empatheia_jax.runtime.workers import worker_pool


def hold() -> None:
    """Do not come back, whatever Python raises here."""
    while True:
        try:
            ctypes.CDLL(None).sleep(1000)
        except BaseException:
            continue


def main(argv: list[str]) -> int:
    """Hold, or print."""
    folder, mode = Path(argv[0]), argv[1]
    if mode == "print":
        while not (folder / "enough").exists():
            print("a line of the work", flush=True)
            print("a line on stderr", file=sys.stderr, flush=True)
            time.sleep(0.005)
        with replacing(folder / "result") as temporary:
            temporary.write_text("whole")
        return 0
    if mode == "graceful":
        came: list[int] = []
        signals.respond_with(lambda number: 128 + number if came else came.append(number))
    with replacing(folder / "result") as temporary:
        temporary.write_text("half")
        if mode == "workers":
            with worker_pool(2) as pool:
                calls = [pool.submit(time.sleep, 1000) for _ in range(4)]
                while not any(call.running() for call in calls):
                    time.sleep(0.01)
                (folder / "ready").touch()
                hold()
        (folder / "ready").touch()
        hold()
    return 0


if __name__ == "__main__":
    program.finish(main, sys.argv[1:])
