"""The writing of a feature store (`data.features`): complete shards only, by any number of processes, resumable."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.data.features.records import CONTENT_PREFIX, Journal, StoreError, gold_size, pack_record
from empatheia_jax.data.features.store import FORMAT, check_settings, read_manifest, shard_name
from empatheia_jax.runtime.atomic import TEMPORARY_SUFFIX, remove_abandoned, replacing, write_json
from empatheia_jax.runtime.json_files import read_json


def write_json_lines(path: Path, values: Iterable) -> None:
    """Write one JSON value a line, atomically."""
    with replacing(path, durable=True) as temporary:
        lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
        temporary.write_text("".join(lines), encoding="utf-8")


def write_shard(directory: Path, index: int, utterances: Iterable[tuple[str, Sequence[bytes], object]], notes: dict):
    """Write shard `index` atomically, with a JSON sidecar that lists what it holds.

    Args:
      directory: the store's folder.
      index: of the shard.
      utterances: (key, its packed records, [P, F] of its golds or None) as `pack_utterance` gives them.
      notes: further fields of the sidecar, JSON; read after the last utterance.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path, keys, sizes = directory / shard_name(index), [], []
    with replacing(path, durable=True) as temporary:
        # Groups of one record: reading is random access. zstd gains nothing on noise-like float16.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for key, records, size in utterances:
                for record in records:
                    writer.write(record)
                keys.append(key)
                sizes.append(size)
        finally:
            writer.close()
        entry = {"keys": keys, "sizes": sizes, "bytes": temporary.stat().st_size}
        write_json(path.with_suffix(".json"), entry | notes, durable=True)


def pack_utterance(
    key: str, arrays: Mapping[str, np.ndarray], float_dtype: str
) -> tuple[str, list[bytes], list[int] | None]:
    """Pack an utterance as `write_shard` takes it: content golds, where there are both, are a record of their own."""
    size = gold_size(arrays)
    content = {name: array for name, array in arrays.items() if name.startswith(CONTENT_PREFIX)} if size else {}
    rest = {name: array for name, array in arrays.items() if name not in content}
    return key, [pack_record(key, part, float_dtype) for part in (rest, content) if part], size


class FeatureWriter:
    """The bookkeeping of a store that is being written, or continued after an interruption.

    Any number of processes may have one on the same folder and write different shards.
    """

    def __init__(self, directory: Path, settings: dict, source_hash: str, shards: int):
        """Start a store, or continue the one in `directory`.

        Args:
          directory: the store's folder.
          settings: from `features.store_settings`.
          source_hash: identity of the data that is read.
          shards: how many there will be.

        Raises:
          StoreError: the folder holds a store with other settings or from other data, or other files.
        """
        self.directory = Path(directory)
        manifest = {
            "format": FORMAT,
            "complete": False,
            "settings": settings,
            "source_hash": source_hash,
            "shards": shards,
        }
        if (self.directory / "manifest.json").exists():
            self.manifest = read_manifest(self.directory)
            check_settings(self.directory, self.manifest, settings)
            if (self.manifest["source_hash"], self.manifest["shards"]) != (source_hash, shards):
                raise StoreError(
                    f"{self.directory}: these features were made from other data (its files, texts or lengths have "
                    "changed): delete the folder or choose another"
                )
        else:
            # A run killed while it wrote the manifest leaves a temporary file.
            if self.directory.exists() and any(path.suffix != TEMPORARY_SUFFIX for path in self.directory.iterdir()):
                raise StoreError(f"{self.directory}: not empty and no feature store: choose another folder")
            self.directory.mkdir(parents=True, exist_ok=True)
            self.manifest = manifest
            write_json(self.directory / "manifest.json", manifest, durable=True)

    @classmethod
    def open_existing(cls, directory: Path) -> "FeatureWriter":
        """Open the store that was begun in `directory`; StoreError where there is none."""
        manifest = read_manifest(directory)
        return cls(directory, manifest["settings"], manifest["source_hash"], manifest["shards"])

    @property
    def float_dtype(self) -> str:
        """The name of the dtype in which floats are stored."""
        return self.manifest["settings"]["floats"]

    def open_journal(self, index: int) -> Journal:
        """Open the journal of shard `index`; StoreError where another process has it open."""
        return Journal(self._journal_path(index))

    def count_journal_entries(self, index: int) -> int:
        """Return the number of entries in the journal of shard `index`, 0 where there is none."""
        if not self._journal_path(index).exists():
            return 0
        with contextlib.closing(self.open_journal(index)) as journal:
            return len(journal.entries)

    def _journal_path(self, index: int) -> Path:
        return (self.directory / shard_name(index)).with_suffix(".journal")

    @property
    def complete(self) -> bool:
        """Whether all shards and the index are written."""
        return bool(self.manifest["complete"]) and not self.unfinished_shards()

    def unfinished_shards(self) -> list[int]:
        """Return the shards that are missing or do not have the size they were written with."""
        return [i for i in range(self.manifest["shards"]) if not self._is_complete(self.directory / shard_name(i))]

    def _is_complete(self, path: Path) -> bool:
        try:
            return path.stat().st_size == json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["bytes"]
        except (OSError, ValueError, KeyError):
            return False

    def read_sidecar(self, index: int) -> dict:
        """Read the sidecar of a finished shard: keys, sizes, bytes, and the notes it was written with."""
        path = (self.directory / shard_name(index)).with_suffix(".json")
        return read_json(path)

    def finish(self, counts: dict) -> None:
        """Write the index and mark the store complete.

        Args:
          counts: of what was extracted, for the manifest.

        Raises:
          StoreError: shards are missing.
        """
        missing = self.unfinished_shards()
        if missing:
            raise StoreError(f"{self.directory}: {len(missing)} of {self.manifest['shards']} shards are missing")
        shards = [self.read_sidecar(index) for index in range(self.manifest["shards"])]
        index = {field: [shard[field] for shard in shards] for field in ("keys", "sizes", "bytes")}
        write_json(self.directory / "index.json", index, durable=True)
        self.manifest = self.manifest | {"complete": True, "counts": counts}
        write_json(self.directory / "manifest.json", self.manifest, durable=True)
        remove_abandoned(self.directory)
