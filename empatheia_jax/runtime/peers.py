"""Ending a process whose peers are lost: within the heartbeat, with one line and an exit code of its own."""

import ctypes
import os
import re
import signal
import sys

LOST = 75  # exit code after the loss of a peer, EX_TEMPFAIL of sysexits.h: the run can be started again
HEARTBEAT = 30  # seconds without an answer after which a process counts as lost

# Words of the errors of Gloo, NCCL and JAX's coordination service about a process that does not answer.
_LOST = re.compile(
    r"gloo|nccl|coordination|connection (closed|reset|refused)|socket closed|broken pipe|heartbeat|barrier"
    r"|^(deadline_exceeded|unavailable|aborted|cancelled)\b",
    re.IGNORECASE,
)
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def is_peer_loss(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, means that another process of the run does not answer."""
    while error is not None:
        if isinstance(error, ValueError | RuntimeError) and _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def exit_lost(reason: BaseException | str) -> None:
    """End this process at once, without exit handlers: those that wait for the other processes would never return."""
    summary = " ".join(str(reason).split())[:160]
    line = f"train.py: lost another process of this run ({summary}); start all again with --resume\n"
    try:
        sys.stdout.flush()
        os.write(2, line.encode())
    except (OSError, ValueError, RuntimeError):
        pass  # nothing reads stdout or stderr any more
    os._exit(LOST)


@_HANDLER
def _aborted(_number: int) -> None:
    exit_lost("no heartbeat")


def exit_on_abort() -> None:
    """Have JAX's abort after missed heartbeats end the process like any other loss of a peer.

    JAX's heartbeats run in threads of their own, so they notice a loss while this process waits in a collective. But
    they only call abort(), and jaxlib takes no Python function instead (its callback fails with bad_cast in 0.10 and
    0.11). A C handler of SIGABRT runs in the aborting thread, even while Python waits elsewhere; one of `signal.signal`
    would not.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, _HANDLER], ctypes.c_void_p
    library.signal(signal.SIGABRT, _aborted)
