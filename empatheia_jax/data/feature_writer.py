"""Making a feature store (`data.features`): whole shards or none, by any number of processes, after any kill."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.data.feature_records import CONTENT, Journal, StoreError, gold_size, pack_record
from empatheia_jax.data.features import FORMAT, check_settings, content_hash, read_manifest, shard_name


def write_json(path: Path, value) -> None:
    """Write JSON so that `path` is at every moment either the old file or the whole new one."""
    with _atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_json_lines(path: Path, values: Iterable) -> None:
    """Write one JSON value a line, all or nothing."""
    with _atomic(path) as temporary:
        lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
        temporary.write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when the block ends well. It is locked as long as its writer lives."""
    temporary = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.part")
    with open(temporary, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield temporary
            os.fsync(held.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _remove_strays(directory: Path) -> None:
    """Remove what killed processes were writing, and nothing that a live one still writes."""
    for path in directory.glob("*.part"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def write_shard(directory: Path, index: int, utterances: Iterable[tuple[str, Sequence[bytes], object]], notes: dict):
    """Write shard `index` whole or not at all.

    Args:
      utterances: (key, its packed records, [P, F] of its golds or None): `packed`.
      notes: JSON, read after the last utterance: goes to the shard's sidecar.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path, keys, sizes = directory / shard_name(index), [], []
    with _atomic(path) as temporary:
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
        write_json(path.with_suffix(".json"), entry | notes)


def packed(key: str, arrays: Mapping[str, np.ndarray], floats: str) -> tuple[str, list[bytes], list[int] | None]:
    """An utterance as `write_shard` takes it."""
    size = gold_size(arrays)
    content = {name: array for name, array in arrays.items() if name.startswith(CONTENT)} if size else {}
    rest = {name: array for name, array in arrays.items() if name not in content}
    return key, [pack_record(key, part, floats) for part in (rest, content) if part], size


class FeatureWriter:
    """The book-keeping of a store that is being made, or made further after a kill.

    Any number of processes may hold one on the same folder and write different shards.
    """

    def __init__(self, directory: Path, settings: dict, source_hash: str, shards: int):
        """Start a store, or go on with the one in `directory`.

        Args:
          settings: from `store_settings`.
          source_hash: identity of the data that is read.
          shards: how many there will be.
        Raises:
          StoreError: when the folder holds a store made otherwise, or other files.
        """
        self.directory = Path(directory)
        self._new = {
            "format": FORMAT,
            "complete": False,
            "settings": settings,
            "settings_hash": content_hash(settings),
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
            # A run killed while it wrote the manifest leaves a .part file.
            if self.directory.exists() and any(path.suffix != ".part" for path in self.directory.iterdir()):
                raise StoreError(f"{self.directory}: not empty and no feature store: choose another folder")
            self.directory.mkdir(parents=True, exist_ok=True)
            self.manifest = self._new
            write_json(self.directory / "manifest.json", self._new)

    @classmethod
    def at(cls, directory: Path) -> "FeatureWriter":
        """The store that was begun in `directory`; StoreError where there is none."""
        manifest = read_manifest(directory)
        return cls(directory, manifest["settings"], manifest["source_hash"], manifest["shards"])

    @property
    def floats(self) -> str:
        """What floats are stored as."""
        return self.manifest["settings"]["floats"]

    def journal(self, index: int) -> Journal:
        """What is done of shard `index`; StoreError where another process holds it."""
        return Journal(self._journal_path(index))

    def journalled(self, index: int) -> int:
        """Entries in the journal of shard `index`, 0 where there is none."""
        if not self._journal_path(index).exists():
            return 0
        with contextlib.closing(self.journal(index)) as journal:
            return len(journal.entries)

    def _journal_path(self, index: int) -> Path:
        return (self.directory / shard_name(index)).with_suffix(".journal")

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.manifest["complete"]) and not self.unfinished()

    def unfinished(self) -> list[int]:
        """Shards that are not there yet, or not as they were written."""
        return [i for i in range(self.manifest["shards"]) if not self._whole(self.directory / shard_name(i))]

    def _whole(self, path: Path) -> bool:
        try:
            return path.stat().st_size == json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["bytes"]
        except (OSError, ValueError, KeyError):
            return False

    def notes(self, index: int) -> dict:
        """The sidecar of a finished shard: keys, bytes, and the notes it was written with."""
        path = (self.directory / shard_name(index)).with_suffix(".json")
        return json.loads(path.read_text(encoding="utf-8"))

    def finish(self, counts: dict) -> None:
        """Write the index and mark the store complete. All shards must be there."""
        missing = self.unfinished()
        if missing:
            raise StoreError(f"{self.directory}: {len(missing)} of {self.manifest['shards']} shards are missing")
        shards = [self.notes(index) for index in range(self.manifest["shards"])]
        index = {field: [shard[field] for shard in shards] for field in ("keys", "sizes", "bytes")}
        write_json(self.directory / "index.json", index)
        self.manifest = self.manifest | {"complete": True, "counts": counts}
        write_json(self.directory / "manifest.json", self.manifest)
        _remove_strays(self.directory)
