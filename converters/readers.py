"""Tensors of a published checkpoint by name: safetensors and torch's files, in one file or in shards.

Nothing is loaded before it is asked for, and nothing in a file is run.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np


class ConversionError(ValueError):
    """A checkpoint that cannot be converted: says what is wrong with it, all of it at once."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint at byte `offset` of `file`; `read` gives a view of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path
    offset: int
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def in_memory(arrays: Mapping[str, np.ndarray], where: str = "memory") -> dict[str, Tensor]:
    """Arrays as a reader would give them."""
    return {
        name: Tensor(array.shape, array.dtype, Path(where), index, lambda array=array: array)
        for index, (name, array) in enumerate(arrays.items())
    }


DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
      ConversionError: not there, or not one.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: not there")
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: a {type(value).__name__}, not an object")
    return value


def open_checkpoint(path: Path, stem: tuple[str, str] = ("model", "pytorch_model")) -> dict[str, Tensor]:
    """The tensors of a transformers directory, of a single file, or of a shard index.

    Args:
      stem: what a directory's weights are called, in safetensors and in torch's format.
    Raises:
      ConversionError: no weights there, an index and shards that disagree, or a file that is damaged or hostile.
    """
    path = Path(path)
    if not path.exists():
        raise ConversionError(f"{path}: not there")
    if path.is_file():
        return _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
    names = f"{stem[0]}.safetensors", f"{stem[1]}.bin"
    for name in names:
        if (index := path / f"{name}.index.json").exists():
            return _open_index(index)
        if (path / name).exists():
            return _open_file(path / name)
    raise ConversionError(f"{path}: no {names[0]} or {names[1]} (or an index of shards) in it")


def _open_index(index: Path) -> dict[str, Tensor]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ConversionError(f"{index}: no shard index: it has no weight_map of tensors to files")
    found: dict[str, Tensor] = {}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise ConversionError(f"{index}: its shard {shard} is not there")
        tensors = _open_file(index.parent / shard)
        promised = {name for name, file in names.items() if file == shard}
        if promised != tensors.keys():
            odd = sorted(promised ^ tensors.keys())
            raise ConversionError(f"{index}: {shard} does not hold what the index says: {odd[:5]}")
        found |= tensors
    return found


def _open_file(path: Path) -> dict[str, Tensor]:
    from converters.torch_files import open_torch

    return _open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ConversionError(f"{path}: truncated, or no safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {
                name: (entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
                for name, entry in header.items()
            }
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ConversionError(f"{path}: its header is damaged ({error!r})") from error
    tensors, covered = {}, 0
    for name, (kind, shape, start, end) in sorted(entries.items(), key=lambda item: item[1][2]):
        if kind not in DTYPES:
            raise ConversionError(f"{path}: {name} is {kind}; weights are bfloat16, float16 or float32")
        dtype = np.dtype(DTYPES[kind])
        if start != covered or min(shape, default=0) < 0 or end - start != math.prod(shape) * dtype.itemsize:
            raise ConversionError(f"{path}: damaged at {name}: its bytes are not where and what its shape says")
        covered = end
        if 8 + length + end > size:
            raise ConversionError(f"{path}: truncated at {name}: {size:,} bytes, it needs {8 + length + end:,}")
        tensors[name] = Tensor(shape, dtype, path, 8 + length + start, mapped(path, 8 + length + start, dtype, shape))
    if 8 + length + covered != size:
        raise ConversionError(f"{path}: {size - 8 - length - covered:,} bytes past its last tensor")
    return tensors


def mapped(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """A reader of the array [*shape] at a byte of a file, as a view of it."""

    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
        return np.asarray(raw).view(dtype).reshape(shape)

    return read
