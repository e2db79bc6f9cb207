"""Tensors of a published checkpoint by name: safetensors and torch's zip files, in one file or in shards.

Nothing is loaded before it is asked for, and nothing in a file is run: a torch file's pickle may name tensors and
their storages, and anything else is refused by its name.
"""

import collections
import dataclasses
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np


class ConversionError(ValueError):
    """A checkpoint that cannot be converted: says what is wrong with it, all of it at once."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint; `read` gives a view of the file where it can."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    read: Callable[[], np.ndarray]


DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a transformers directory, of a single file, or of a shard index.

    Raises:
      ConversionError: no weights there, an index and shards that disagree, or a file that is damaged or hostile.
    """
    path = Path(path)
    if not path.exists():
        raise ConversionError(f"{path}: not there")
    if path.is_file():
        return _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := path / f"{name}.index.json").exists():
            return _open_index(index)
        if (path / name).exists():
            return _open_file(path / name)
    raise ConversionError(f"{path}: no model.safetensors or pytorch_model.bin (or an index of shards) in it")


def _open_index(index: Path) -> dict[str, Tensor]:
    names: dict[str, str] = json.loads(index.read_text())["weight_map"]
    found: dict[str, Tensor] = {}
    for shard in sorted(set(names.values())):
        if not (index.parent / shard).exists():
            raise ConversionError(f"{index}: its shard {shard} is not there")
        tensors = _open_file(index.parent / shard)
        promised = {name for name, file in names.items() if file == shard}
        if promised != tensors.keys():
            odd = sorted(promised ^ tensors.keys())
            raise ConversionError(f"{index}: {shard} does not hold what the index says: {odd[:5]}")
        found |= tensors
    return found


def _open_file(path: Path) -> dict[str, Tensor]:
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ConversionError(f"{path}: truncated, or no safetensors file")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ConversionError(f"{path}: its header is no JSON") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ConversionError(f"{path}: {name} is {entry['dtype']}; weights are bfloat16, float16 or float32")
        dtype, shape, (start, end) = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        if end - start != math.prod(shape) * dtype.itemsize or start < 0 or 8 + length + end > size:
            raise ConversionError(f"{path}: truncated or damaged at {name}")
        tensors[name] = Tensor(shape, dtype, path.name, _mapped(path, 8 + length + start, dtype, shape))
    return tensors


def _mapped(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
        return raw.view(dtype).reshape(shape)

    return read


# torch ----------------------------------------------------------------------------------------------------------------

_STORAGES = {
    "FloatStorage": np.float32, "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64, "LongStorage": np.int64, "IntStorage": np.int32, "BoolStorage": np.bool_,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Strided:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Builds descriptions of tensors; knows no other names than those that tensors need."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Strided(storage, offset, tuple(shape), tuple(strides))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise ConversionError(f"refused: it asks for {module}.{name}, which no weights need")

    def persistent_load(self, identity):
        kind, dtype, key, *_ = identity
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ConversionError(f"refused: a persistent object {kind!r} that is no storage")
        return _Storage(key, dtype)


def _open_torch(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ConversionError(
            f"{path}: truncated, or older than torch 1.6's zip files: save it again with a newer torch"
        )
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise ConversionError(f"{path}: a zip file, but not torch's")
        with archive.open(entries["data.pkl"]) as file:
            try:
                content = _Unpickler(file).load()
            except ConversionError as error:
                raise ConversionError(f"{path}: {error}") from error
            except Exception as error:  # a damaged pickle fails in many ways
                raise ConversionError(f"{path}: its pickle is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: a {type(content).__name__}, not a state dict")
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, _Strided):
            raise ConversionError(f"{path}: {name} is no tensor")
        tensors[name] = _torch_tensor(path, name, value, entries.get(f"data/{value.storage.key}"))
    return tensors


def _torch_tensor(path: Path, name: str, value: _Strided, entry: zipfile.ZipInfo | None) -> Tensor:
    dtype = value.storage.dtype
    last = sum((n - 1) * stride for n, stride in zip(value.shape, value.strides, strict=True)) if value.shape else 0
    if entry is None or entry.compress_type or (value.offset + last + 1) * dtype.itemsize > entry.file_size:
        raise ConversionError(f"{path}: the storage of {name} is missing, compressed or too short")

    def read() -> np.ndarray:
        with path.open("rb") as file:  # behind the entry's own header, whose lengths may differ from the directory's
            file.seek(entry.header_offset + 26)
            names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        start = entry.header_offset + 30 + names + extra
        flat = np.memmap(path, np.uint8, "r", start, (entry.file_size,)).view(dtype)[value.offset :]
        strides = tuple(stride * dtype.itemsize for stride in value.strides)
        return np.lib.stride_tricks.as_strided(flat, value.shape, strides, writeable=False)

    return Tensor(value.shape, dtype, path.name, read)
