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
from empatheia_jax.runtime.atomic import write_json

SHARD_BYTES = 1_000_000_000
_FINGERPRINT = "converting.json"


def refuse_existing(output: Path) -> None:
    """Raise ConversionError if `output` exists: nothing is overwritten."""
    if output.exists():
        raise ConversionError(f"{output}: is there already; choose another folder or remove it")


def partial_path(output: Path) -> Path:
    """Return the path at which a folder is written until it is complete."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to `output` at the end, or removed after an exception.

    Raises:
      ConversionError: `output` exists already.
    """
    refuse_existing(output)
    partial = partial_path(output)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with signals.removed_on_end(lambda: shutil.rmtree(partial)):
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(output)


def begin_folder(output: Path, fingerprint: dict) -> Path:
    """Return the folder to write into until `output` is complete (`finish_folder`).

    What an interrupted run with the same fingerprint wrote is kept.

    Args:
      output: a new folder.
      fingerprint: JSON values that what is written depends on.
    """
    partial = partial_path(output)
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == fingerprint):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(path, fingerprint)
    return partial


@contextlib.contextmanager
def removed_unless_begun(output: Path) -> Iterator[None]:
    """Where a signal ends the process inside the block, remove what `begin_folder` returned and holds no part yet."""
    partial = partial_path(output)

    def remove() -> None:
        if not any(partial.rglob("index.json")):
            shutil.rmtree(partial)

    with signals.removed_on_end(remove):
        yield


def finish_folder(output: Path) -> None:
    """Give a folder that `begin_folder` returned, and that is complete, its name."""
    partial = partial_path(output)
    (partial / _FINGERPRINT).unlink()
    partial.rename(output)


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
