"""Tensors of a published checkpoint by name: safetensors and torch's files, single or in shards.

Numbers are read from disk when `Tensor.read` is called, and no code in a file is executed.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from converters.tensors import ConversionError, Tensor
from converters.torch_files import open_torch

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
    """Read a JSON object.

    Raises:
      ConversionError: no file, or its contents are not a JSON object.
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
    """Open the tensors of a transformers directory, of a single file, or of a shard index.

    Args:
      path: the directory, file or index.
      stem: names of a directory's weights, without extension: in safetensors and in torch's format.
    Raises:
      ConversionError: no weights, an index and shards that disagree, or a file that is damaged or hostile.
    """
    path = Path(path)
    if not path.exists():
        raise ConversionError(f"{path}: not there")
    if path.is_file():
        return _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
    file_names = f"{stem[0]}.safetensors", f"{stem[1]}.bin"
    for name in file_names:
        if (index := path / f"{name}.index.json").exists():
            return _open_index(index)
        if (path / name).exists():
            return _open_file(path / name)
    raise ConversionError(f"{path}: no {file_names[0]} or {file_names[1]} (or an index of shards) in it")


def _open_index(index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ConversionError(f"{index}: not a shard index: it has no weight_map of tensors to files")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise ConversionError(f"{index}: its shard {shard} is not there")
        shard_tensors = _open_file(index.parent / shard)
        indexed = {name for name, file in weight_map.items() if file == shard}
        if indexed != shard_tensors.keys():
            differing = sorted(indexed ^ shard_tensors.keys())
            raise ConversionError(f"{index}: {shard} does not hold what the index says: {differing[:5]}")
        tensors |= shard_tensors
    return tensors


def _open_file(path: Path) -> dict[str, Tensor]:
    return _open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ConversionError(f"{path}: truncated, or not a safetensors file")
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
            raise ConversionError(f"{path}: damaged at {name}: its bytes disagree with its shape or position")
        covered = end
        if 8 + length + end > size:
            raise ConversionError(f"{path}: truncated at {name}: {size:,} bytes, it needs {8 + length + end:,}")
        tensors[name] = Tensor(
            shape, dtype, path, 8 + length + start, memory_map_reader(path, 8 + length + start, dtype, shape)
        )
    if 8 + length + covered != size:
        raise ConversionError(f"{path}: {size - 8 - length - covered:,} bytes past its last tensor")
    return tensors


def memory_map_reader(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Return a function that reads the array [*shape] at byte `offset` of a file, as a view of the file."""

    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
        return np.asarray(raw).view(dtype).reshape(shape)

    return read
