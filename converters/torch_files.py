"""Read files of torch.save, zip (since torch 1.6) and older, without torch and without executing their pickles.

A pickle may name tensors and their storages; a file that names anything else is refused, and the error says what.
"""

import collections
import dataclasses
import functools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from converters.tensors import ConversionError, Tensor

_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before zip files


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _TensorView:
    """A tensor as its pickle describes it: a strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage, offset, shape, strides, *_) -> _TensorView:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ConversionError("a tensor without a storage, or with other strides than axes")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ConversionError(f"a tensor of impossible numbers {numbers}")
    return _TensorView(storage, offset, tuple(shape), tuple(strides))


class _Inert:
    """A placeholder without value for a number that numpy pickled (a loss, say)."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


class _Unpickler(pickle.Unpickler):
    """An unpickler that builds descriptions of tensors and refuses all names but those that tensors need."""

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) in (
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
            ("_codecs", "encode"),
        ):
            return _Inert
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise ConversionError(f"refused: it asks for {module}.{name}, which no weights need")

    def persistent_load(self, identity):
        kind, dtype, key, *_ = identity
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ConversionError(f"refused: a persistent object {kind!r} that is no storage")
        if len(identity) > 5 and identity[5] is not None:
            raise ConversionError("refused: a view of a storage, as torch before 0.4 wrote")
        self.storages[str(key)] = dtype
        return _Storage(str(key), dtype)


def _load(path: Path, file, storages: dict[str, np.dtype] | None = None):
    unpickler = _Unpickler(file)
    try:
        loaded = unpickler.load()
        if storages is not None:
            storages |= unpickler.storages
        return loaded
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise ConversionError(f"{path}: its pickle is damaged or cut off ({error})") from error


def open_torch(path: Path, root: str | None = None, *, alone: bool = False) -> dict[str, Tensor]:
    """Open the tensors of a state dict that torch.save wrote.

    Args:
      path: the file.
      root: the key of the state dict, in a file that holds more; "" where the file is nested state dicts. Names of
        nested state dicts are joined by dots.
      alone: the file holds a single tensor; it is returned under the name "tensor".
    Raises:
      ConversionError: a damaged or hostile file, or one that holds something else.
    """
    select = functools.partial(_select_state_dict, path, root=root, alone=alone)
    return _open_zip(path, select) if zipfile.is_zipfile(path) else _open_legacy(path, select)


def _open_zip(path: Path, select: Callable[[object], dict]) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise ConversionError(f"{path}: a zip file, but not of torch.save")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ConversionError(f"{path}: written on a big-endian machine")
        with archive.open(entries["data.pkl"]) as file:
            content = _load(path, file)

    def extent(storage: _Storage) -> tuple[int, int] | None:
        """Return the byte at which a storage begins, and its size in bytes."""
        entry = entries.get(f"data/{storage.key}")
        if entry is None or entry.compress_type:
            return None
        with path.open("rb") as file:  # after the entry's own header, whose lengths may differ from the directory's
            file.seek(entry.header_offset + 26)
            names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return entry.header_offset + 30 + names + extra, entry.file_size

    return _open_tensors(path, select(content), extent)


def _select_state_dict(path: Path, content, *, root: str | None, alone: bool) -> dict:
    """Return the state dict at `root`, names of nested state dicts joined by dots."""
    if alone and isinstance(content, _TensorView):
        return {"tensor": content}
    if alone or not isinstance(content, dict):
        kind = "tensor" if isinstance(content, _TensorView) else type(content).__name__
        raise ConversionError(f"{path}: a {kind}, not a {'tensor' if alone else 'state dict'}")
    if root is None:
        return content
    nested = content.get(root) if root else content
    if not isinstance(nested, dict):
        raise ConversionError(f"{path}: it has no {root!r}; its keys are {', '.join(map(str, content))[:200]}")
    joined = {}
    for name, value in nested.items():
        joined |= (
            {f"{name}.{key}": tensor for key, tensor in value.items()} if isinstance(value, dict) else {name: value}
        )
    return joined


def _open_legacy(path: Path, select: Callable[[object], dict]) -> dict[str, Tensor]:
    """Open the older format: pickles of magic, protocol, system, object and storage keys, then each storage's bytes."""
    size, extents = path.stat().st_size, {}
    with path.open("rb") as file:
        if _load_number(file) != _MAGIC:
            raise ConversionError(f"{path}: truncated, or not a file of torch.save")
        if _load(path, file) != _PROTOCOL or _load(path, file).get("little_endian") is not True:
            raise ConversionError(f"{path}: an unknown version of torch's older format, or a big-endian machine's")
        dtypes: dict[str, np.dtype] = {}
        content, keys = _load(path, file, dtypes), _load(path, file)
        if not isinstance(keys, list):
            raise ConversionError(f"{path}: damaged: its list of storages is missing")
        position = file.tell()
        for key in map(str, keys):
            file.seek(position)
            count, position = int.from_bytes(file.read(8), "little"), position + 8
            if key not in dtypes:
                raise ConversionError(f"{path}: it holds a storage {key} that no tensor uses")
            extents[key] = position, count * dtypes[key].itemsize
            position += extents[key][1]
            if position > size:
                raise ConversionError(f"{path}: truncated: {size:,} bytes, it needs at least {position:,}")
    return _open_tensors(path, select(content), lambda storage: extents.get(storage.key))


def _load_number(file) -> object:
    try:
        return _Unpickler(file).load()
    except Exception:  # not a pickle at all
        return None


def _open_tensors(path: Path, content: dict, extent: Callable[[_Storage], tuple[int, int] | None]) -> dict[str, Tensor]:
    tensors, size = {}, path.stat().st_size
    for name, value in content.items():
        if not isinstance(value, _TensorView) or not isinstance(name, str):
            raise ConversionError(f"{path}: {name} is not a tensor")
        span, itemsize = extent(value.storage), value.storage.dtype.itemsize
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.strides, strict=True))
        needed = 0 if 0 in value.shape else (value.offset + last + 1) * itemsize
        if span is None or needed > span[1] or sum(span) > size:
            raise ConversionError(f"{path}: the storage of {name} is missing, compressed or too short")
        tensors[name] = _open_tensor(path, value, *span)
    return tensors


def _open_tensor(path: Path, value: _TensorView, start: int, num_bytes: int) -> Tensor:
    dtype = value.storage.dtype

    def read() -> np.ndarray:
        if 0 in value.shape:
            return np.zeros(value.shape, dtype)
        flat = np.asarray(np.memmap(path, np.uint8, "r", start, (num_bytes,))).view(dtype)[value.offset :]
        strides = tuple(stride * dtype.itemsize for stride in value.strides)
        return np.lib.stride_tricks.as_strided(flat, value.shape, strides, writeable=False)

    return Tensor(value.shape, dtype, path, start + value.offset * dtype.itemsize, read)
