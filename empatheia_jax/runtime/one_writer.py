"""One writer at a time: a lock that ends with its process, however that ends.

The lock is the kernel's, on a small file that says who holds it. A file that a killed process left is not locked.
"""

import contextlib
import datetime
import errno
import fcntl
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_POLL = 0.1  # seconds between two attempts


class BusyError(ValueError):
    """Another process is writing the same: says which, on which machine and since when."""


def lock_file(file: IO, timeout: float = 0.0) -> bool:
    """Lock an open file until it is closed or this process ends.

    On a file system without locks there is nothing to be done but to say so, in a note on stderr.

    Args:
      file: open for writing.
      timeout: seconds to wait for another holder.
    Returns:
      Whether no other process holds the lock.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _note_no_locks(os.path.dirname(os.path.abspath(file.name)), os.strerror(error.errno))
                return True
            if error.errno not in _HELD:
                raise
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)


@functools.cache  # once a folder
def _note_no_locks(folder: str, reason: str) -> None:
    print(
        f"note: {folder}: its file system has no locks ({reason}): see yourself that no second process writes there",
        file=sys.stderr,
        flush=True,
    )


def lock_beside(output: Path | str) -> Path:
    """Return the lock file of an output that is not a folder with a place for it, the same for all of its names."""
    path = Path(os.path.realpath(output))
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def one_writer(lock: Path, target: Path | str) -> Iterator[None]:
    """Hold a lock file inside the `with`; its folder is made, and removed again where it stays empty.

    Args:
      lock: the lock file.
      target: what is written, for the error.
    Raises:
      BusyError: another process holds it.
    """
    made = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        file = _acquire(lock, target)
        stack.callback(file.close)
        stack.callback(lock.unlink, missing_ok=True)  # while it is locked: nobody else can hold this file
        yield


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty
        for folder in folders:
            folder.rmdir()


def _acquire(lock: Path, target: Path | str) -> IO[str]:
    """Open the lock file and lock it; its last holder may just be removing it."""
    while True:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(lock.open("a+", encoding="utf-8"))
            if not lock_file(file):
                raise BusyError(
                    f"{target}: {_holder(file)} is writing it: wait until that has ended, or choose another place"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    file.truncate(0)
                    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
                    json.dump({"pid": os.getpid(), "host": platform.node(), "since": since}, file)
                    file.flush()
                    opened.pop_all()
                    return file


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        entry = json.loads(file.read())
        return f"process {entry['pid']} on {entry['host']}, since {entry['since']},"
    except (ValueError, KeyError, TypeError):  # it is just writing who it is
        return "another process"
