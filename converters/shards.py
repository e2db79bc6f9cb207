"""Writing a transformers directory: safetensors shards of bounded size, an index, and no half of either."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from converters.outputs import fresh
from converters.readers import ConversionError

SHARD_BYTES = 1_000_000_000


def save(tensors: dict[str, np.ndarray], path: Path) -> None:
    """A safetensors file that others may read as the umask says; safetensors itself makes it the owner's alone."""
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, path, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


class Shards:
    """A new folder of "model.safetensors" (or numbered shards) that appears under its name when it is whole.

    As a context manager; leaving by an exception removes what was written.

    Raises:
      ConversionError: the folder is there already; the disk is full.
    """

    def __init__(self, output: Path, stem: str = "model", shard_bytes: int = SHARD_BYTES):
        self._stem, self._most, self._fresh = stem, shard_bytes, fresh(Path(output))
        self._held: dict[str, np.ndarray] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self.total = 0

    def __enter__(self) -> "Shards":
        self.folder = self._fresh.__enter__()
        return self

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one tensor, now or with the next ones."""
        if self._held and sum(held.nbytes for held in self._held.values()) + array.nbytes > self._most:
            self._flush()
        self._held[name] = np.ascontiguousarray(array)
        self.total += array.nbytes

    def _flush(self) -> None:
        if self._held:
            path = self.folder / f"{self._stem}-{len(self._files):05d}.partial"
            try:
                save(self._held, path)
            except Exception as error:  # safetensors has an error of its own for a full disk
                raise ConversionError(f"{path}: could not be written ({error})") from error
            self._files.append((path, list(self._held)))
            self._held = {}

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException as failed:
                self._fresh.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._fresh.__exit__(kind, error, trace)

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
