"""`empatheia fetch`: brings a part to this machine, whole or not at all."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from empatheia_jax.runtime.one_writer import one_writer
from empatheia_jax.runtime.progress import Progress
from empatheia_jax.trained_parts.catalogue import Package, Part, Piece, Source, catalogue
from empatheia_jax.trained_parts.home import RECEIPT, PartError, home
from empatheia_jax.trained_parts.sources import (
    SourceError,
    assemble,
    download,
    find_in,
    is_right,
    open_member,
    receipt,
)

LARGEST_LICENCE = 1 << 20  # bytes
WEIGHTS = "weights"  # folder of the converted file
LICENCES, ARCHIVES = ".licences", ".archives"  # folders of an unfinished part


def find_part(name: str) -> Part:
    """Return a part of the catalogue.

    Raises:
      PartError: there is none of that name.
    """
    if name not in catalogue():
        raise PartError(f"there is nothing called {name!r} to fetch: choose from {', '.join(catalogue())}")
    return catalogue()[name]


def is_complete(part: Part) -> bool:
    """Whether a part is on this machine: its receipt, every file of one of its sources, by size, and its weights."""
    folder = home() / part.name

    def has_all(source: Source) -> bool:
        files = [(folder / file.name, file.size) for file in source.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in files) and (
            not source.convert or (folder / WEIGHTS / "config.json").is_file()
        )

    return (folder / RECEIPT).is_file() and any(map(has_all, part.sources))


def fetch(part: Part, *, origin: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Bring a part to `home()`; one that is there is left as it is, without any network.

    What an interrupted fetch completed is not fetched again.

    Args:
      part: what to bring.
      origin: a file, folder or archive of the user's that holds it; tried first.
      say: is told what is done, a line at a time.

    Returns:
      The part's folder.

    Raises:
      PartError: no source has it; each is named with its reason.
      BusyError: another process is fetching it.
    """
    folder = home() / part.name
    if is_complete(part):
        say(f"{part.name}: already in {folder}")
        return folder
    try:
        home().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home()).close()
    except OSError as error:
        reason = error.strerror or error
        raise PartError(f"{home()} cannot be written ({reason}): set EMPATHEIA_HOME to a folder that can be") from error
    partial = home() / f"{part.name}.partial"
    with one_writer(home() / f"{part.name}.lock", f"{folder}"):
        if folder.exists() and not partial.exists():  # damaged: what is right of it need not be fetched
            os.replace(folder, partial)
        failures = []
        for source in _with_origin(part, origin, failures):
            try:
                size = f"{source.size / 1e6:,.0f} MB"
                say(f"{part.name}: {size} from the {source.title}; licence {part.licence}, {part.home}")
                _obtain(source, partial)
                if source.convert:
                    _convert(*source.convert, partial, say)
                break
            except (SourceError, OSError) as error:
                failures.append(f"{source.title}: {error}")
                say(f"{part.name}: {failures[-1]}")
        else:
            advice = f"Give its files with --from PATH, or see {part.home}"
            raise PartError(f"{part.name} cannot be fetched ({'; '.join(failures)}). {advice}")
        header = f"{part.name}: {part.purpose}\nLicence: {part.licence}\nOfficial home: {part.home}\n{part.note}\n"
        texts = [header, *((partial / name).read_text("utf-8", "replace") for name in sorted(_licence_files(partial)))]
        (partial / "LICENSE.txt").write_text("\n\n".join(texts), "utf-8")
        (partial / RECEIPT).write_text(receipt(source.title, source.files), "utf-8")
        _remove_others(source, partial)
        if folder.exists():  # what is left of a damaged one
            shutil.rmtree(folder)
        os.replace(partial, folder)
    say(f"{part.name}: in {folder}")
    return folder


def _with_origin(part: Part, origin: Path | None, failures: list[str]):
    """Yield the sources to try: the user's path in the place of each source's packages, then the sources themselves."""
    if origin is not None:
        for source in part.sources:
            try:
                places = find_in(origin.absolute(), source.files)
            except SourceError as error:
                failures.append(str(error))
                break
            if places is not None:
                files = tuple(dataclasses.replace(file, pieces=(places[file.name],)) for file in source.files)
                yield Source(f"path {origin}", files, convert=source.convert)
                break
        else:
            names = ", ".join(file.name for source in part.sources for file in source.files[:4])
            failures.append(f"{origin}: not all of {names} in it")
    yield from part.sources


def _obtain(source: Source, partial: Path) -> None:
    """Write the files of a source that are not there yet, and its licences, into the folder `partial`."""
    wanted = [file for file in source.files if not is_right(file, partial / file.name)]
    pieces = [piece for file in wanted for piece in file.pieces] + list(source.licences)
    packages = list(dict.fromkeys(piece.package for piece in pieces))
    archives = partial / ARCHIVES
    downloads: dict[Package, Path] = {}
    with Progress(len(packages), len(packages), shown=True, name="fetch", unit="downloads") as line:
        for package in packages:
            members = [piece.member for piece in pieces if piece.package == package]
            folder = archives / hashlib.sha256(str(package).encode()).hexdigest()[:12]
            own = Path(package.name)
            downloads[package] = _as_archive(own) if own.is_absolute() else download(package, members, folder)
            line.advance(1)
    shutil.rmtree(partial / LICENCES, ignore_errors=True)  # another source's
    try:
        for file in wanted:
            assemble(file, downloads, partial / file.name)
        for number, piece in enumerate(source.licences):
            _keep_licence(piece, downloads, partial / LICENCES / f"{number:02}.txt")
    except SourceError:
        shutil.rmtree(archives, ignore_errors=True)  # what it brought is wrong
        raise
    shutil.rmtree(archives, ignore_errors=True)


def _as_archive(path: Path) -> Path:
    """Return the folder of a single file of the user's, else the folder or archive itself."""
    import tarfile
    import zipfile

    single = path.is_file() and not zipfile.is_zipfile(path) and not tarfile.is_tarfile(path)
    return path.parent if single else path


def _keep_licence(piece: Piece, downloads: dict[Package, Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_member(downloads[piece.package], piece.member) as stream:
        target.write_bytes(stream.read(LARGEST_LICENCE))


def _licence_files(partial: Path) -> list[str]:
    return [str(path.relative_to(partial)) for path in (partial / LICENCES).glob("*.txt")]


def _remove_others(source: Source, partial: Path) -> None:
    """Remove what is not of a source: its downloads, and files of another that did not have all."""
    names = {file.name for file in source.files} | {"LICENSE.txt", RECEIPT}
    for path in list(partial.rglob("*")):
        name = path.relative_to(partial).as_posix()
        if path.is_file() and name not in names and not (source.convert and name.startswith(f"{WEIGHTS}/")):
            path.unlink()
    for folder in sorted((path for path in partial.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _convert(family: str, file: str, partial: Path, say: Callable[[str], None]) -> None:
    """Make `partial`/WEIGHTS of a file by the converters, in a process of their own.

    Raises:
      SourceError: they refuse it; their last line.
    """
    output = partial / WEIGHTS
    if (output / "config.json").exists():
        return
    say(f"{file}: converted by `python -m converters {family}`")
    command = [sys.executable, "-m", "converters", family, "--input", str(partial / file), "--output", str(output)]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("converters ")] or [
            result.stderr[-300:]
        ]
        raise SourceError(f"{file} was not converted: {lines[-1].strip()}")
