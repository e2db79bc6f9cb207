"""The end of a run whose other processes are gone: within the heartbeat, with one line and an exit code of its own."""

import ctypes
import os
import re
import signal
import sys

LOST = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the run, start it again
HEARTBEAT = 30  # seconds

# What Gloo, NCCL and JAX's coordination service say of a process that does not answer.
_LOST = re.compile(
    r"gloo|nccl|coordination|connection (closed|reset|refused)|socket closed|broken pipe|heartbeat|barrier"
    r"|^(deadline_exceeded|unavailable|aborted|cancelled)\b",
    re.IGNORECASE,
)
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def lost(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that another process of the run does not answer."""
    while error is not None:
        if isinstance(error, ValueError | RuntimeError) and _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def end_lost(reason: BaseException | str) -> None:
    """End this process at once: what waits for the others, at exit too, would wait for ever."""
    short = " ".join(str(reason).split())[:160]
    line = f"train.py: lost another process of this run ({short}); start all again with --resume\n"
    try:
        sys.stdout.flush()
        os.write(2, line.encode())
    except (OSError, ValueError, RuntimeError):
        pass  # nobody reads any more
    os._exit(LOST)


@_HANDLER
def _aborted(_number: int) -> None:
    end_lost("no heartbeat")


def end_on_abort() -> None:
    """Have JAX's abort after missed heartbeats end the process like any other loss of a peer.

    Its heartbeats run in threads of their own, so they tell while this process waits in a collective; but all that they
    do is abort(), and jaxlib takes no Python function for them (its callback fails with bad_cast, 0.10 and 0.11). A
    handler in C runs in the aborting thread itself, also while Python waits elsewhere; `signal.signal` would not.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, _HANDLER], ctypes.c_void_p
    library.signal(signal.SIGABRT, _aborted)
