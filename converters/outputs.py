"""Output folders that appear under their name when they are complete, or not at all; safetensors in bounded shards."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from converters.tensors import ConversionError
from empatheia_jax.runtime import signals
from empatheia_jax.runtime.atomic import TEMPORARY_SUFFIX, write_json
from empatheia_jax.runtime.one_writer import lock_beside, one_writer
from empatheia_jax.runtime.outputs import Named, check_outputs

SHARD_BYTES = 1_000_000_000
_FINGERPRINT = "converting.json"


def refuse_existing(output: Path, inputs: Named = ()) -> None:
    """Check that nothing is overwritten.

    Args:
      output: a folder that is to be written.
      inputs: (name, path) of what is read for it.
    Raises:
      ConversionError: `output` exists, or where it is written until it is complete there is something else.
      OutputError: an input is there.
    """
    partial = partial_path(output)
    check_outputs([("--output", output), (f"--output {output} is written as", partial)], inputs)
    if os.path.lexists(output):
        raise ConversionError(f"{output}: is there already; choose another folder or remove it")
    if os.path.lexists(partial) and not _is_abandoned(partial):
        raise ConversionError(
            f"{partial}: is there and no conversion left it, but {output.name} is written there until it is complete; "
            "choose another --output or move it away"
        )


def partial_path(output: Path) -> Path:
    """Return the path at which a folder is written until it is complete."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to `output` at the end, or removed after an exception.

    Raises:
      ConversionError: `output` exists already.
    """
    with one_writer_of(output):
        partial = _begin_folder(output, {})
        try:
            with signals.removed_on_end(lambda: _remove(partial)):
                yield partial
        except BaseException:
            _remove(partial)
            raise
        _finish_folder(output)


@contextlib.contextmanager
def resumable_folder(output: Path, fingerprint: dict) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to `output` at the end, and kept after an exception.

    What an interrupted run with the same fingerprint wrote is in it. Call it inside `one_writer_of`.

    Args:
      output: a new folder.
      fingerprint: JSON values that what is written depends on.
    """
    partial = partial_path(output)
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == fingerprint):
        _begin_folder(output, fingerprint)
    with signals.removed_on_end(lambda: any(partial.rglob("index.json")) or _remove(partial)):  # nothing to resume
        yield partial
    _finish_folder(output)


@contextlib.contextmanager
def one_writer_of(output: Path) -> Iterator[None]:
    """Be the only process that writes a new folder.

    Raises:
      BusyError: another process is writing it.
      ConversionError: `output` exists, or something else where it is written.
    """
    with one_writer(lock_beside(output), output):
        refuse_existing(output)  # the last writer may just have finished
        yield


def _begin_folder(output: Path, fingerprint: dict) -> Path:
    partial = partial_path(output)
    _remove(partial)
    partial.mkdir(parents=True)
    write_json(partial / _FINGERPRINT, fingerprint)
    return partial


def _finish_folder(output: Path) -> None:
    partial_path(output).rename(output)
    (output / _FINGERPRINT).unlink()


def _remove(partial: Path) -> None:
    """Remove what a conversion left, its mark last: what is left of it after a kill is still known as such."""
    for path in sorted(partial.glob("*"), key=lambda path: path.name == _FINGERPRINT):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)


def _is_abandoned(partial: Path) -> bool:
    """Tell whether a conversion that was killed left a folder, with or without its mark."""
    if not partial.is_dir() or partial.is_symlink():
        return False
    return (partial / _FINGERPRINT).exists() or all(path.suffix == TEMPORARY_SUFFIX for path in partial.iterdir())


def save_safetensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file with the umask's permissions; safetensors alone would give them to the owner only."""
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, path, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


class Shards:
    """A context manager for a new folder of "model.safetensors", or of numbered shards and their index.

    The folder appears under its name when it is complete; leaving by an exception removes what was written.

    Raises:
      ConversionError: the folder exists already.
      ConversionError: the disk is full.
    """

    def __init__(self, output: Path, stem: str = "model", shard_bytes: int = SHARD_BYTES):
        self._stem, self._shard_bytes, self._new_folder = stem, shard_bytes, new_folder(Path(output))
        self._pending: dict[str, np.ndarray] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self.total = 0

    def __enter__(self) -> "Shards":
        self.folder = self._new_folder.__enter__()
        return self

    def add(self, name: str, array: np.ndarray) -> None:
        """Add one tensor; it is written when its shard is full."""
        if self._pending and sum(tensor.nbytes for tensor in self._pending.values()) + array.nbytes > self._shard_bytes:
            self._flush()
        self._pending[name] = np.ascontiguousarray(array)
        self.total += array.nbytes

    def _flush(self) -> None:
        if self._pending:
            path = self.folder / f"{self._stem}-{len(self._files):05d}.partial"
            try:
                save_safetensors(self._pending, path)
            except Exception as error:  # safetensors raises an error of its own for a full disk
                raise ConversionError(f"{path}: could not be written ({error})") from error
            self._files.append((path, list(self._pending)))
            self._pending = {}

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException as failed:
                self._new_folder.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._new_folder.__exit__(kind, error, trace)

    def _finish(self) -> None:
        self._flush()
        count, weight_map = len(self._files), {}
        for number, (path, names) in enumerate(self._files, 1):
            part = "" if count == 1 else f"-{number:05d}-of-{count:05d}"
            path.rename(self.folder / f"{self._stem}{part}.safetensors")
            weight_map |= dict.fromkeys(names, f"{self._stem}{part}.safetensors")
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
            (self.folder / f"{self._stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))
