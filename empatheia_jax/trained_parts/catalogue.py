"""What `empatheia fetch` can bring: the parts of catalogue.json, every file pinned by its SHA-256."""

import dataclasses
import functools
import json
from importlib import resources
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of a registry, or a repository of the Hugging Face Hub: what is downloaded at once."""

    kind: Literal["hub", "pypi", "npm"]
    name: str
    version: str  # of a repository: its revision

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}@{self.version[:12]}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A file inside a package, or a part of one."""

    package: Package
    member: str  # its path in the archive or repository


@dataclasses.dataclass(frozen=True)
class PinnedFile:
    """A file of a part; its pieces one after the other are its bytes."""

    name: str  # path inside the part's folder
    sha256: str
    size: int  # bytes
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """A place from which all files of a part can be had."""

    title: str  # "official home", "package registry"
    files: tuple[PinnedFile, ...]
    licences: tuple[Piece, ...] = ()  # licence texts and notices that travel with the files
    convert: tuple[str, str] | None = None  # (family, file): `python -m converters FAMILY` makes weights/ of the file

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def packages(self) -> tuple[Package, ...]:
        """What is downloaded, each once, in order."""
        pieces = [piece for file in self.files for piece in file.pieces] + list(self.licences)
        return tuple(dict.fromkeys(piece.package for piece in pieces))


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that can be fetched."""

    name: str
    purpose: str
    licence: str
    home: str  # the official home, for people
    sources: tuple[Source, ...]  # in the order in which they are tried
    note: str = ""  # what should be known: why the official home is not among the sources, say


@functools.cache
def catalogue() -> dict[str, Part]:
    """Return all parts by name."""
    return parse(
        json.loads(resources.files("empatheia_jax.trained_parts").joinpath("catalogue.json").read_text("utf-8"))
    )


def parse(entries: dict) -> dict[str, Part]:
    """Read parts from JSON values; a piece is "kind:name@version/path in it"."""
    return {
        name: Part(**entry | {"name": name} | {"sources": tuple(_source(source) for source in entry["sources"])})
        for name, entry in entries.items()
    }


def _source(entry: dict) -> Source:
    files = tuple(
        PinnedFile(file["name"], file["sha256"], file["size"], tuple(map(_piece, file["pieces"])))
        for file in entry["files"]
    )
    licences = tuple(map(_piece, entry.get("licences", ())))
    convert = tuple(entry["convert"]) if "convert" in entry else None
    return Source(entry["title"], files, licences, convert)


def _piece(text: str) -> Piece:
    kind, _, rest = text.partition(":")
    name, _, rest = rest.rpartition("@")
    version, _, member = rest.partition("/")
    return Piece(Package(kind, name, version), member)  # type: ignore[arg-type]
