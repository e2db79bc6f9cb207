"""One record of a feature store: named arrays as bytes, and the journal that holds the records of an unfinished shard.

Floats are kept in the store's own type (`FLOATS`), integers as int32.
"""

import fcntl
import functools
import json
import math
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

FLOATS = {"float16": np.dtype("<f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("<f4")}
"""Names of what floats can be stored as."""

_TYPES = {**FLOATS, "int32": np.dtype("<i4")}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_PATIENCE = 10.0  # seconds in which the workers of a killed process notice its death
CONTENT = "content_"  # the golds whose names begin so are large, and read only where they are learned from


class StoreError(ValueError):
    """A feature store that cannot be used: says which, why, and what to do."""


def pack_record(key: str, arrays: Mapping[str, np.ndarray], floats: str = "float16") -> bytes:
    """One record: lengths of key and layout, these (the layout as JSON: names, types, shapes), the arrays' bytes.

    Raises:
      StoreError: when an array holds a value that `floats` cannot, or is neither of floats nor of integers.
    """
    layout, chunks = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        floating = np.issubdtype(array.dtype, np.floating) or array.dtype == FLOATS["bfloat16"]
        if not floating and not np.issubdtype(array.dtype, np.integer):
            raise StoreError(f"{key}: {name} is {array.dtype}; a store holds floats and integers")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, FLOATS[floats] if floating else _TYPES["int32"])
        if floating and not np.isfinite(stored).all():
            raise StoreError(f"{key}: {name} holds values that are not finite in {floats}")
        layout.append([name, _NAMES[stored.dtype], list(stored.shape)])
        chunks.append(stored.tobytes())
    named, described = key.encode(), json.dumps(layout).encode()
    return b"".join([struct.pack("<HH", len(named), len(described)), named, described, *chunks])


def unpack_record(record: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """The key and the arrays that `pack_record` was given, as they were stored: views that cannot be written."""
    key_length, layout_length = struct.unpack_from("<HH", record)
    start = 4 + key_length + layout_length
    layout = _layout(record[4 + key_length : start])
    arrays = {
        name: np.frombuffer(record, kind, count, start + offset).reshape(shape)
        for name, kind, shape, count, offset in layout
    }
    return record[4 : 4 + key_length].decode(), arrays


@functools.lru_cache(maxsize=4096)
def _layout(described: bytes) -> list[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    """(name, dtype, shape, elements, first byte) of each array; most records of a store are laid out alike."""
    found, offset = [], 0
    for name, kind, shape in json.loads(described):
        count = math.prod(shape)
        found.append((name, _TYPES[kind], tuple(shape), count, offset))
        offset += count * _TYPES[kind].itemsize
    return found


def gold_size(arrays: Mapping[str, np.ndarray]) -> list[int] | None:
    """[P, F] of a record's golds, None when they are not both there."""
    if "phonemes" in arrays and "content_video" in arrays:
        return [len(arrays["phonemes"]), len(arrays["content_video"])]
    return None


class Journal:
    """What is already done of a shard: entries that outlive a kill, in the order they were added.

    An entry is a JSON value and some records, under one checksum. Opening reads what is whole and drops what a killed
    writer left half written. It is locked as long as it is open: another process that wants it is refused.
    """

    def __init__(self, path: Path):
        """Open or begin the journal at `path`.

        Raises:
          StoreError: another process writes it.
        """
        self.path = path
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - held open until `close`
        until = time.monotonic() + _PATIENCE
        while not self._locked():
            if time.monotonic() > until:
                self._file.close()
                raise StoreError(f"{path}: another process is extracting this: give each its own --process")
            time.sleep(0.1)
        self.entries = self._read()

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _read(self) -> list[tuple[object, list[bytes]]]:
        self._file.seek(0)
        content, entries, at = self._file.read(), [], 0
        while at + 8 <= len(content):
            length, checksum = struct.unpack_from("<II", content, at)
            body = content[at + 8 : at + 8 + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            entries.append(_entry(body))
            at += 8 + length
        self._file.truncate(at)
        return entries

    def add(self, value, records: list[bytes]) -> None:
        """Append an entry; it is there for the next reader when this returns, even if the process is then killed."""
        text = json.dumps([value, [len(record) for record in records]]).encode()
        body = b"".join([struct.pack("<I", len(text)), text, *records])
        self._file.write(struct.pack("<II", len(body), zlib.crc32(body)) + body)
        self._file.flush()
        self.entries.append((value, records))

    def close(self, remove: bool = False) -> None:
        """Let go of it; `remove` it first when all of it is in its shard."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _entry(body: bytes) -> tuple[object, list[bytes]]:
    (length,) = struct.unpack_from("<I", body)
    value, sizes = json.loads(body[4 : 4 + length])
    records, at = [], 4 + length
    for size in sizes:
        records.append(body[at : at + size])
        at += size
    return value, records
