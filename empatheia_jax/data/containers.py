"""What a recording may be in: a file of its own, a member of a zip, or a record of a built dataset.

All three name themselves in messages (`str`), tell their size without being read, and are opened by `source`.
"""

import dataclasses
import functools
import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath


@dataclasses.dataclass(frozen=True, order=True)
class Member:
    """A file in a zip, read in place: the archives need not be unpacked."""

    archive: Path
    name: str  # within the archive

    def __str__(self) -> str:
        return f"{self.archive}!{self.name}"

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return archive(self.archive).getinfo(self.name).file_size

    def read(self) -> bytes:
        """The whole file; its checksum is verified."""
        return archive(self.archive).read(self.name)


@dataclasses.dataclass(frozen=True, order=True)
class Embedded:
    """A recording whose bytes are in a dataset that `empatheia build-data --embed-media` wrote."""

    dataset: Path
    split: str
    record: int
    place: int  # among the record's media
    size: int
    name: str  # of the file it was

    def __str__(self) -> str:
        return f"{self.dataset}!{self.split}/{self.record}/{self.name}"

    def read(self) -> bytes:
        """Its bytes, as they were in the file."""
        from empatheia_jax.data.tfds_records import media_bytes

        return media_bytes(self.dataset, self.split, self.record, self.place)


Recording = Path | Member | Embedded


class UnreadableError(ValueError):
    """A recording that its container does not give out; says why."""


def archive(path: Path) -> zipfile.ZipFile:
    """An open zip, shared by the threads of this process; anew when the file changed.

    Raises:
      UnreadableError: no zip, or a damaged one.
    """
    try:
        status = path.stat()
        return _archive(path, status.st_size, status.st_mtime_ns)
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"{path}: cannot be read as a zip ({error}): download it again") from error


@functools.lru_cache(maxsize=32)
def _archive(path: Path, size: int, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def size_of(recording: Recording) -> int:
    """Bytes of a recording; UnreadableError or OSError where it is not there."""
    try:
        return recording.stat().st_size if isinstance(recording, Path) else recording.size
    except KeyError as error:
        raise UnreadableError(f"{recording}: not in its archive") from error


def source(recording: Recording) -> str | io.BytesIO:
    """What soundfile and PyAV open: a path, or the bytes.

    Raises:
      UnreadableError: damaged, encrypted or missing in its container.
    """
    if isinstance(recording, Path):
        return str(recording)
    try:
        return io.BytesIO(recording.read())
    except (OSError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableError(f"{recording}: cannot be taken out of its container ({error})") from error


def name_of(recording: Recording, root: Path) -> str:
    """How a recording is called wherever `root`, the folder that its data is in, is moved to."""
    if isinstance(recording, Embedded):
        return f"{recording.split}/{recording.name}"
    path = recording if isinstance(recording, Path) else recording.archive
    below = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
    return below if isinstance(recording, Path) else f"{below}!{recording.name}"


def file_name(recording: Recording) -> PurePosixPath:
    """Its file's name, without folders."""
    return PurePosixPath(recording.name if isinstance(recording, Path) else PurePosixPath(recording.name).name)
