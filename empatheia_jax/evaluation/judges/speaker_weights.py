"""Reads the speaker network's weights, a file of torch.save in its format before 1.6, without executing its pickle.

The file is a sequence of pickles (magic number, protocol, machine, content, keys of the storages) and then each storage
as a count and its float32. A pickle may name nothing but what describes a float tensor.
"""

import collections
import dataclasses
import pickle
from pathlib import Path
from typing import IO

import numpy as np

from empatheia_jax.evaluation.judges.parts import JudgeError

_MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(frozen=True)
class _View:
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """An unpickler that builds views of storages and refuses every name that they do not need."""

    def find_class(self, module: str, name: str):
        names = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "FloatStorage"): np.float32,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _View(
                storage, offset, tuple(shape), tuple(strides)
            ),
        }
        if (module, name) not in names:
            raise JudgeError(f"refused: it asks for {module}.{name}, which no weights need")
        return names[module, name]

    def persistent_load(self, identity) -> str:
        kind, dtype, key, *_ = identity
        if kind != "storage" or dtype is not np.float32:
            raise JudgeError(f"refused: a persistent object {kind!r} that is no storage of float32")
        return str(key)


def read_speaker_weights(path: Path, root: str = "model_state") -> dict[str, np.ndarray]:
    """Read the tensors of a state dict.

    Args:
      path: the file.
      root: key of the state dict in what the file holds.

    Returns:
      float32 arrays by name.

    Raises:
      JudgeError: the file is damaged, of another kind, or asks for code.
    """
    try:
        with path.open("rb") as file:
            return _read(file, root)
    except JudgeError as error:
        raise JudgeError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise JudgeError(f"{path}: damaged, or not the speaker network's weights ({error}): fetch it again") from error


def _read(file: IO[bytes], root: str) -> dict[str, np.ndarray]:
    magic, _, machine, content, keys = (_Unpickler(file).load() for _ in range(5))
    if magic != _MAGIC or machine["little_endian"] is not True:
        raise JudgeError("not a file of torch.save, or a big-endian machine's")
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[str(key)] = np.frombuffer(file.read(4 * count), "<f4", count)
    return {name: _array(storages[view.storage], view) for name, view in content[root].items()}


def _array(storage: np.ndarray, view: _View) -> np.ndarray:
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if min((*view.shape, *view.strides, view.offset), default=0) < 0 or view.offset + last >= len(storage):
        raise JudgeError("a tensor that lies outside of its storage")
    strides = tuple(4 * stride for stride in view.strides)
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides, writeable=False)
