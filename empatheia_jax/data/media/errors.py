"""The error of the media modules, and how errors of the libraries become it."""

import contextlib
from collections.abc import Iterator

import av.error

from empatheia_jax.data.media.containers import UnreadableError

_LIBRARY_ERRORS = (
    av.error.FFmpegError,
    ValueError,
    RuntimeError,  # soundfile's and soxr's
    OSError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
)


class MediaError(ValueError):
    """A media file that cannot be used; the message names the file, what is wrong with it and what to do.

    Attributes:
      path: name of the file.
      problem: the kind of fault: "empty", "too large", "too long", "cut short", "damaged", "without sound" or "without
        frames" (the stream holds nothing), "absent" (there is no stream of the kind asked for) or "unreadable".
    """

    def __init__(self, path, message: str, problem: str = "unreadable"):
        super().__init__(f"{path}: {message}")
        self.path, self.problem = str(path), problem


@contextlib.contextmanager
def media_errors(path) -> Iterator[None]:
    """Turn what a library raises about a file into a `MediaError` of one line that names it.

    Args:
      path: the file, or a recording in a container.
    """
    try:
        yield
    except MediaError:
        raise
    except UnreadableError as error:
        raise MediaError(path, str(error).removeprefix(f"{path}: ")) from error
    except _LIBRARY_ERRORS as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
        raise MediaError(path, f"cannot be read as media ({reason}); is it a whole audio or video file?") from error


@contextlib.contextmanager
def naming(path) -> Iterator[None]:
    """Turn an error about what a recording holds (too short, silent) into a `MediaError` that names its file.

    Args:
      path: the file, or a recording in a container.
    """
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise MediaError(path, " ".join(str(error).split())) from error
