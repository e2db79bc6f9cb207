"""Tensors and metadata of a GGUF file, llama.cpp's format; quantised tensors are dequantised when they are read.

Layout: magic, version, number of tensors, number of metadata entries; the entries; a name, shape, format and offset for
each tensor; their bytes, aligned. Every length is compared with the file's size before anything is read by it.
"""

import dataclasses
import functools
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converters.readers import memory_map_reader
from converters.tensors import ConversionError, Tensor, need_package

MAGIC, VERSIONS = b"GGUF", (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # id -> struct's
_STRING, _ARRAY = 8, 9
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_MIN_ENTRY, _MIN_TENSOR, _MAX_DIMENSIONS = 13, 32, 4  # bytes of the shortest entry and description of a tensor


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """A GGUF file: metadata (texts, numbers, lists of texts, arrays of numbers) and tensors by the names in it."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


class _Cursor:
    """Reads a file's header from front to back and never past its end."""

    def __init__(self, path: Path):
        self.path, self.size, self.position = path, path.stat().st_size, 0
        if self.size < 24:
            raise ConversionError(f"{path}: {self.size} bytes, too short for a GGUF file")
        self._bytes = np.memmap(path, np.uint8, "r").data

    def error(self, problem: str) -> ConversionError:
        """Return the error of a damaged header."""
        return ConversionError(f"{self.path}: truncated or damaged at byte {self.position:,}: {problem}")

    def take(self, length: int, what: str) -> memoryview:
        """Return the next bytes."""
        left = self.size - self.position
        if length > left:
            raise self.error(f"{what} would take {length:,} bytes, {left:,} are left")
        self.position += length
        return self._bytes[self.position - length : self.position]

    def number(self, code: str, what: str):
        """Return the next number of struct's format `code`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def text(self, what: str) -> str:
        """Return the next text: its length, then UTF-8."""
        raw = self.take(self.number("Q", what), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error

    def count(self, smallest: int, what: str) -> int:
        """Return the next number of items, of which each takes at least `smallest` bytes."""
        count = self.number("Q", what)
        if count * smallest > self.size - self.position:
            raise self.error(f"{count:,} {what} do not fit into the {self.size - self.position:,} bytes that are left")
        return count

    def value(self, key: str):
        """Return the value of a metadata entry."""
        kind = self.number("I", key)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], key)
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            raise self.error(f"{key} has the unknown type {kind}")
        item = self.number("I", key)
        if item == _STRING:
            return [self.text(key) for _ in range(self.count(8, f"texts of {key}"))]
        if item not in _SCALARS:
            raise self.error(f"{key} is a list of the unknown or nested type {item}")
        dtype = np.dtype(_SCALARS[item]).newbyteorder("<")
        count = self.count(dtype.itemsize, f"numbers of {key}")
        return np.frombuffer(self.take(count * dtype.itemsize, key), dtype)


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file: metadata is read, tensors are described and read later.

    Raises:
      ConversionError: not a GGUF file, or a damaged one, or tensors in a format that is not known.
      ConversionError: the package gguf is not installed.
    """
    path = Path(path)
    cursor = _Cursor(path)
    if cursor.take(4, "the magic") != MAGIC:
        raise ConversionError(f"{path}: not a GGUF file")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        kind = " (a big-endian machine's)" if version and not version & 0xFFFF else ""
        raise ConversionError(f"{path}: version {version}{kind} of GGUF; known are {VERSIONS}")
    num_tensors, num_entries = cursor.number("Q", "tensors"), cursor.number("Q", "entries")
    if num_entries * _MIN_ENTRY + num_tensors * _MIN_TENSOR > cursor.size - cursor.position:
        raise cursor.error(f"{num_tensors:,} tensors and {num_entries:,} entries do not fit into {cursor.size:,} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.text("a metadata key")
        if key in metadata:
            raise cursor.error(f"{key} stands twice in its metadata")
        metadata[key] = cursor.value(key)
    described: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.text("a tensor's name")
        if name in described:
            raise cursor.error(f"tensor {name} stands twice in it")
        dimensions = cursor.number("I", name)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise cursor.error(f"{name} has {dimensions:,} dimensions")
        shape = tuple(cursor.number("Q", name) for _ in range(dimensions))[::-1]
        described[name] = shape, cursor.number("I", name), cursor.number("Q", name)
    if not described:
        raise ConversionError(f"{path}: no tensors in it")
    return GgufFile(path, metadata, _place_tensors(cursor, metadata.get("general.alignment", 32), described))


def _place_tensors(cursor: _Cursor, alignment: object, described: dict) -> dict[str, Tensor]:
    """Return the tensors; their bytes must follow each other without gaps, as llama.cpp demands."""
    path, size = cursor.path, cursor.size
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ConversionError(f"{path}: general.alignment is {alignment!r}, not a power of two")

    def aligned(position: int) -> int:
        return -(-position // alignment) * alignment

    start, expected, tensors = aligned(cursor.position), 0, {}
    for name, (shape, kind, offset) in sorted(described.items(), key=lambda item: item[1][2]):
        dtype, num_bytes, reader = _format(path, name, shape, kind)
        if offset != expected:
            raise ConversionError(
                f"{path}: damaged at {name}: it begins at {offset:,} of the data, the one before ends at {expected:,}"
            )
        if start + offset + num_bytes > size:
            raise ConversionError(
                f"{path}: truncated at {name}: {size:,} bytes, it needs {start + offset + num_bytes:,}"
            )
        tensors[name] = Tensor(shape, np.dtype(dtype), path, start + offset, reader(start + offset))
        expected = aligned(offset + num_bytes)
    if size > start + expected:
        raise ConversionError(f"{path}: {size - start - expected:,} bytes past its last tensor")
    return tensors


def _format(path: Path, name: str, shape: tuple[int, ...], kind: int) -> tuple[Any, int, Callable]:
    """Return the dtype that a tensor is read in, its bytes in the file, and offset -> its `read`."""
    gguf = need_package("gguf")
    try:
        quantization = gguf.GGMLQuantizationType(kind)
    except ValueError as error:
        raise ConversionError(f"{path}: {name} has the unknown format {kind}") from error
    block, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
    if 0 in shape or shape[-1] % block:
        raise ConversionError(f"{path}: {name} has shape {list(shape)}, {quantization.name} has blocks of {block}")
    num_bytes = math.prod(shape) // block * block_bytes
    if quantization.name in _FLOATS:
        dtype = np.dtype(_FLOATS[quantization.name])
        return dtype, num_bytes, lambda offset: memory_map_reader(path, offset, dtype, shape)
    if not _can_dequantize(quantization):
        raise ConversionError(f"{path}: {name} is {quantization.name}, which cannot be dequantised to weights")
    raw_shape = (*shape[:-1], shape[-1] // block * block_bytes)

    def reader(offset: int) -> Callable[[], np.ndarray]:
        raw = memory_map_reader(path, offset, np.dtype(np.uint8), raw_shape)
        return lambda: _dequantize(raw(), quantization)

    return np.float32, num_bytes, reader


def _dequantize(raw: np.ndarray, quantization) -> np.ndarray:
    """Return the float32 numbers of a quantised tensor; scales that are not finite are found by `trained`."""
    with np.errstate(all="ignore"):
        return need_package("gguf").dequantize(raw, quantization).astype(np.float32, copy=False)


@functools.cache
def _can_dequantize(quantization) -> bool:
    gguf = need_package("gguf")
    if quantization.name in ("I8", "I16", "I32", "I64", "F64"):
        return False
    try:
        gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[quantization][1], np.uint8), quantization)
    except NotImplementedError:
        return False
    return True
