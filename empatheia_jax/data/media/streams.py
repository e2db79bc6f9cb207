"""Opens a recording with FFmpeg and chooses its stream of sound or of pictures."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, Literal

import av
import av.container
from av.stream import Disposition

from empatheia_jax.data.media.errors import MediaError, media_errors

_NAMES = {"audio": "audio stream; give a file with sound", "video": "video stream; give a file with pictures"}
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@contextlib.contextmanager
def open_container(path, source: str | bytes) -> Iterator[av.container.InputContainer]:
    """Open a recording with FFmpeg for the length of a `with`.

    Args:
      path: the file, or a recording in a container, for errors.
      source: what to open (`completeness.checked_input`).

    Raises:
      MediaError: FFmpeg does not know the format, or the file is damaged or missing.
    """
    with media_errors(path):
        container = av.open(as_file(source), "r", metadata_errors="ignore")
    with container:
        yield container


def choose_stream(path, container: av.container.InputContainer, kind: Literal["audio", "video"]) -> Any:
    """Return the first stream of a kind that FFmpeg can decode; the cover of a song is not a video.

    Args:
      path: the file, for the error.
      container: the opened file.
      kind: "audio" or "video".

    Raises:
      MediaError: "absent" where the file has no such stream; also where no codec decodes it.
    """
    streams = [stream for stream in container.streams if stream.type == kind and not stream.disposition & _STILL]
    for stream in streams:
        if stream.codec_context is not None:
            return stream
    if streams:
        raise MediaError(path, f"its {kind} is in a format that FFmpeg cannot decode; convert it to mp4 or wav")
    raise MediaError(path, f"has no {_NAMES[kind]}", "absent")


def check_index(path, container: av.container.InputContainer, stream) -> None:
    """Check that the packets that a container's index names lie within the file.

    Raises:
      MediaError: the file is cut short.
    """
    with media_errors(path):
        end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        size = container.size
    if 0 < size < end:
        raise MediaError(
            path, f"is cut short: its index names {end:,} bytes, {size:,} are there; copy it again", "cut short"
        )


def as_file(source: str | bytes) -> str | io.BytesIO:
    """Return what the libraries open, from its start."""
    return source if isinstance(source, str) else io.BytesIO(source)


def head_of(source: str | bytes, count: int) -> bytes:
    """Return the first bytes of a file or of content."""
    if isinstance(source, bytes):
        return source[:count]
    with open(source, "rb") as file:
        return file.read(count)
