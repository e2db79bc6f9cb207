"""Atomic writing of files: a killed process or a full disk leaves the old file or the complete new one."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from empatheia_jax.runtime import signals

TEMPORARY_SUFFIX = ".part"


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block succeeds and is removed when it fails.

    Args:
      path: the file to write.
      durable: wait until the content is on disk, so that not even a power cut leaves half of it under the name.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with contextlib.ExitStack() as stack:
        with signals.undisturbed():
            stack.enter_context(signals.removed_on_end(lambda: temporary.unlink(missing_ok=True)))
            file = stack.enter_context(temporary.open("wb"))
        with contextlib.suppress(OSError):  # a file system without locks: then what a kill leaves stays
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield temporary
            if durable:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; those of running ones are locked."""
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def write_json(path: Path, value, *, durable: bool = False) -> None:
    """Write JSON in UTF-8, atomically; `durable` as for `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
