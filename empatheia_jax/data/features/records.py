"""Records of a feature store (named arrays as bytes), and the journal that holds the records of an unfinished shard.

Floats are stored in the store's own dtype (one of `FLOAT_DTYPES`), integers as int32.
"""

import functools
import json
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from empatheia_jax.runtime.one_writer import lock_file

FLOAT_DTYPES = {"float16": np.dtype("<f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("<f4")}
"""Dtypes in which floats can be stored, by name."""

_DTYPES = {**FLOAT_DTYPES, "int32": np.dtype("<i4")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LOCK_TIMEOUT = 10.0  # seconds in which the workers of a killed process notice its death
CONTENT_PREFIX = "content_"  # golds with such names are large, and read only in stages that learn content


class StoreError(ValueError):
    """A feature store cannot be used; the message says which, why, and what to do."""


def pack_record(key: str, arrays: Mapping[str, np.ndarray], float_dtype: str = "float16") -> bytes:
    """Pack arrays into one record: lengths of key and layout, key, layout (names, dtypes, shapes as JSON), array bytes.

    Args:
      key: of the utterance.
      arrays: by name.
      float_dtype: in which floats are stored, one of `FLOAT_DTYPES`.

    Raises:
      StoreError: an array holds a value that is not finite in `float_dtype`, or neither floats nor integers.
    """
    layout, chunks = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        is_floating = np.issubdtype(array.dtype, np.floating) or array.dtype == FLOAT_DTYPES["bfloat16"]
        if not is_floating and not np.issubdtype(array.dtype, np.integer):
            raise StoreError(f"{key}: {name} is {array.dtype}; a store holds floats and integers")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, FLOAT_DTYPES[float_dtype] if is_floating else _DTYPES["int32"])
        if is_floating and not np.isfinite(stored).all():
            raise StoreError(f"{key}: {name} holds values that are not finite in {float_dtype}")
        layout.append([name, _DTYPE_NAMES[stored.dtype], list(stored.shape)])
        chunks.append(stored.tobytes())
    key_bytes, layout_bytes = key.encode(), json.dumps(layout).encode()
    return b"".join([struct.pack("<HH", len(key_bytes), len(layout_bytes)), key_bytes, layout_bytes, *chunks])


def unpack_record(record: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """Return the key and the arrays of a record, in the dtypes they are stored in: views that cannot be written to."""
    key_length, layout_length = struct.unpack_from("<HH", record)
    start = 4 + key_length + layout_length
    layout = _parse_layout(record[4 + key_length : start])
    arrays = {
        name: np.frombuffer(record, dtype, count, start + offset).reshape(shape)
        for name, dtype, shape, count, offset in layout
    }
    return record[4 : 4 + key_length].decode(), arrays


@functools.lru_cache(maxsize=4096)
def _parse_layout(layout_bytes: bytes) -> list[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    """Return (name, dtype, shape, elements, first byte) of each array. Cached: most records share a few layouts."""
    layout, offset = [], 0
    for name, dtype_name, shape in json.loads(layout_bytes):
        count = math.prod(shape)
        layout.append((name, _DTYPES[dtype_name], tuple(shape), count, offset))
        offset += count * _DTYPES[dtype_name].itemsize
    return layout


def gold_size(arrays: Mapping[str, np.ndarray]) -> list[int] | None:
    """Return [P, F] of a record's content golds, None where it does not have both."""
    if "phonemes" in arrays and "content_video" in arrays:
        return [len(arrays["phonemes"]), len(arrays["content_video"])]
    return None


class Journal:
    """The finished part of an unfinished shard: entries that survive a killed process, in the order they were added.

    An entry is a JSON value and some records, under one checksum. Opening the journal reads the complete entries and
    truncates one that a killed writer left incomplete. It is locked while it is open: a second process is refused.
    """

    def __init__(self, path: Path):
        """Open or create the journal at `path`.

        Raises:
          StoreError: another process has it open.
        """
        self.path = path
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - held open until `close`
        if not lock_file(self._file, _LOCK_TIMEOUT):
            self._file.close()
            raise StoreError(f"{path}: another process is extracting this: give each its own --process")
        self.entries = self._read()

    def _read(self) -> list[tuple[Any, list[bytes]]]:
        self._file.seek(0)
        content, entries, offset = self._file.read(), [], 0
        while offset + 8 <= len(content):
            length, checksum = struct.unpack_from("<II", content, offset)
            body = content[offset + 8 : offset + 8 + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            entries.append(_parse_entry(body))
            offset += 8 + length
        self._file.truncate(offset)
        return entries

    def add(self, value, records: list[bytes]) -> None:
        """Append an entry. Once this returns the entry survives a kill of the process."""
        header = json.dumps([value, [len(record) for record in records]]).encode()
        body = b"".join([struct.pack("<I", len(header)), header, *records])
        self._file.write(struct.pack("<II", len(body), zlib.crc32(body)) + body)
        self._file.flush()
        self.entries.append((value, records))

    def close(self, remove: bool = False) -> None:
        """Close and unlock the journal; `remove` its file first, when the shard has all of it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _parse_entry(body: bytes) -> tuple[Any, list[bytes]]:
    (length,) = struct.unpack_from("<I", body)
    value, sizes = json.loads(body[4 : 4 + length])
    records, offset = [], 4 + length
    for size in sizes:
        records.append(body[offset : offset + size])
        offset += size
    return value, records
