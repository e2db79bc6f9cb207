"""torch.save's files, zip (since torch 1.6) and older, read without torch and without running their pickles.

A pickle may name tensors and their storages; a file that asks for anything else is refused by the name of it.
"""

import collections
import dataclasses
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from converters.readers import ConversionError, Tensor

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
class _Strided:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage, offset, shape, strides, *_) -> _Strided:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ConversionError("a tensor without a storage, or with other strides than axes")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ConversionError(f"a tensor of impossible numbers {numbers}")
    return _Strided(storage, offset, tuple(shape), tuple(strides))


class _Inert:
    """What stands for a number that numpy pickled (a loss, say): nothing."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


class _Unpickler(pickle.Unpickler):
    """Builds descriptions of tensors; knows no other names than those that tensors need."""

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


def open_torch(path: Path, root: str | None = None) -> dict[str, Tensor]:
    """The tensors of a state dict that torch.save wrote.

    Args:
      root: the file holds more than a state dict, which stands under this key; state dicts in it are joined by dots.
    Raises:
      ConversionError: a damaged or hostile file, or one that holds something else.
    """
    return _open_zip(path, root) if zipfile.is_zipfile(path) else _open_legacy(path, root)


def _open_zip(path: Path, root: str | None) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise ConversionError(f"{path}: a zip file, but not torch's")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ConversionError(f"{path}: written on a big-endian machine")
        with archive.open(entries["data.pkl"]) as file:
            content = _load(path, file)

    def extent(storage: _Storage) -> tuple[int, int] | None:
        """Where a storage begins, and its bytes."""
        entry = entries.get(f"data/{storage.key}")
        if entry is None or entry.compress_type:
            return None
        with path.open("rb") as file:  # behind the entry's own header, whose lengths may differ from the directory's
            file.seek(entry.header_offset + 26)
            names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return entry.header_offset + 30 + names + extra, entry.file_size

    return _tensors(path, _below(path, content, root), extent)


def _below(path: Path, content, root: str | None) -> dict:
    """The state dict at `root`, its state dicts joined by dots."""
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: a {type(content).__name__}, not a state dict")
    if root is None:
        return content
    if not isinstance(content.get(root), dict):
        raise ConversionError(f"{path}: it has no {root!r}; its keys are {', '.join(map(str, content))[:200]}")
    joined = {}
    for name, value in content[root].items():
        joined |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return joined


def _open_legacy(path: Path, root: str | None) -> dict[str, Tensor]:
    """magic, protocol, system, the pickled object, the keys of its storages; then each storage's length and bytes."""
    size, extents = path.stat().st_size, {}
    with path.open("rb") as file:
        if _load_number(file) != _MAGIC:
            raise ConversionError(f"{path}: truncated, or not a file of torch.save")
        if _load(path, file) != _PROTOCOL or _load(path, file).get("little_endian") is not True:
            raise ConversionError(f"{path}: an unknown version of torch's older format, or a big-endian machine's")
        dtypes: dict[str, np.dtype] = {}
        content, keys = _load(path, file, dtypes), _load(path, file)
        if not isinstance(keys, list):
            raise ConversionError(f"{path}: damaged: no list of its storages")
        at = file.tell()
        for key in map(str, keys):
            file.seek(at)
            count, at = int.from_bytes(file.read(8), "little"), at + 8
            if key not in dtypes:
                raise ConversionError(f"{path}: it holds a storage {key} that no tensor uses")
            extents[key] = at, count * dtypes[key].itemsize
            at += extents[key][1]
            if at > size:
                raise ConversionError(f"{path}: truncated: {size:,} bytes, it needs at least {at:,}")
    return _tensors(path, _below(path, content, root), lambda storage: extents.get(storage.key))


def _load_number(file) -> object:
    try:
        return _Unpickler(file).load()
    except Exception:  # not a pickle at all
        return None


def _tensors(path: Path, content: dict, extent: Callable[[_Storage], tuple[int, int] | None]) -> dict[str, Tensor]:
    tensors, size = {}, path.stat().st_size
    for name, value in content.items():
        if not isinstance(value, _Strided) or not isinstance(name, str):
            raise ConversionError(f"{path}: {name} is no tensor")
        found, itemsize = extent(value.storage), value.storage.dtype.itemsize
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.strides, strict=True))
        needed = 0 if 0 in value.shape else (value.offset + last + 1) * itemsize
        if found is None or needed > found[1] or sum(found) > size:
            raise ConversionError(f"{path}: the storage of {name} is missing, compressed or too short")
        tensors[name] = _tensor(path, value, *found)
    return tensors


def _tensor(path: Path, value: _Strided, start: int, count: int) -> Tensor:
    dtype = value.storage.dtype

    def read() -> np.ndarray:
        if 0 in value.shape:
            return np.zeros(value.shape, dtype)
        flat = np.asarray(np.memmap(path, np.uint8, "r", start, (count,))).view(dtype)[value.offset :]
        strides = tuple(stride * dtype.itemsize for stride in value.strides)
        return np.lib.stride_tricks.as_strided(flat, value.shape, strides, writeable=False)

    return Tensor(value.shape, dtype, path, start + value.offset * dtype.itemsize, read)
