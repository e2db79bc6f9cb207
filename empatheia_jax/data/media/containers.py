"""Where a recording is: in a file of its own, in a zip, or in another container, such as a record of a built dataset.

A recording has a name for messages (`str`) and a size that is known without reading it; `readable_input` gives its
content.
"""

import dataclasses
import functools
import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol


class ContainedRecording(Protocol):
    """A recording inside a container; `str` names both for messages."""

    @property
    def name(self) -> str:
        """Name of the recording's file, with its folders."""
        ...

    @property
    def size(self) -> int:
        """Bytes, unpacked; known without reading them."""
        ...

    def read(self) -> bytes:
        """Read the bytes, as they were in the file."""
        ...

    def portable_name(self, root: Path) -> str:
        """Return a name that stays the same when `root`, the folder of the data, is moved."""
        ...


Recording = Path | ContainedRecording


@dataclasses.dataclass(frozen=True, order=True)
class ZipMember:
    """A file in a zip, read in place, so that archives need not be unpacked."""

    archive: Path
    name: str  # within the archive

    def __str__(self) -> str:
        return f"{self.archive}!{self.name}"

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return open_archive(self.archive).getinfo(self.name).file_size

    def read(self) -> bytes:
        """Read the whole file; its checksum is verified."""
        return open_archive(self.archive).read(self.name)

    def portable_name(self, root: Path) -> str:
        """Return the archive's name relative to `root`, and the file's within it."""
        return f"{portable_name(self.archive, root)}!{self.name}"


class UnreadableError(ValueError):
    """A recording that cannot be read from its container; says why."""


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip, which the threads of this process share; it is opened again when the file has changed.

    Raises:
      UnreadableError: not a zip, or a damaged one.
    """
    try:
        status = path.stat()
        return _open_archive(path, status.st_size, status.st_mtime_ns)
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"{path}: cannot be read as a zip ({error}): download it again") from error


@functools.lru_cache(maxsize=32)
def _open_archive(path: Path, size: int, modified: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def size_of(recording: Recording) -> int:
    """Return the size of a recording in bytes.

    Raises:
      UnreadableError: it is not in its zip, or the zip is damaged.
      OSError: there is no such file.
    """
    try:
        return recording.stat().st_size if isinstance(recording, Path) else recording.size
    except KeyError as error:
        raise UnreadableError(f"{recording}: not in its archive") from error


def readable_input(recording: Recording) -> str | io.BytesIO:
    """Return what soundfile and PyAV can open: the path of a file, or the bytes of a recording in a container.

    Raises:
      UnreadableError: damaged, encrypted or missing in its container.
    """
    if isinstance(recording, Path):
        return str(recording)
    try:
        return io.BytesIO(recording.read())
    except (OSError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableError(f"{recording}: cannot be taken out of its container ({error})") from error


def portable_name(recording: Recording, root: Path) -> str:
    """Return a name that stays the same when `root`, the folder of the data, is moved."""
    if not isinstance(recording, Path):
        return recording.portable_name(root)
    return str(recording.relative_to(root)) if recording.is_relative_to(root) else recording.name


def posix_path(name: str) -> PurePosixPath:
    """Return the path of a name in an archive; archives made on Windows may have backslashes between folders."""
    return PurePosixPath(name.replace("\\", "/"))


def file_name(recording: Recording) -> PurePosixPath:
    """Return the name of a recording's file, without folders."""
    return PurePosixPath(posix_path(recording.name).name)
