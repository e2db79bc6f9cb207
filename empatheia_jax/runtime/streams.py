"""Standard output and error that survive their readers: `| head`, a closed ssh, a daemon's closed descriptors.

A command's work is in its files. That nobody reads its lines any more is no reason to end it, so from the first line
that cannot be delivered on, a stream goes to /dev/null.
"""

import contextlib
import errno
import io
import os
import sys

_READER_GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN}


class _Descriptor(io.FileIO):
    """A file descriptor whose reader may go away; other errors, such as a full disk, are raised."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def outlive_readers() -> None:
    """Have this process's stdout and stderr survive their readers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue  # it was closed at the start: a file opened later would get its number, and then what is printed
    os.close(descriptor)
    sys.stdout, sys.stderr = _wrap(sys.stdout, 1), _wrap(sys.stderr, 2)


def _wrap(stream, descriptor: int) -> io.TextIOWrapper:
    raw = _Descriptor(descriptor, "w", closefd=False)
    if stream is None:  # closed at the start
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    unbuffered = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
