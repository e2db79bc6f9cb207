"""The tensors of a checkpoint, whatever file they are in, and the error of a checkpoint that cannot be converted."""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class ConversionError(ValueError):
    """A checkpoint that cannot be converted; the message lists everything that is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint at byte `offset` of `file`; `read` returns a view of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path
    offset: int
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def wrap_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return arrays in memory as the tensors of a checkpoint."""
    return {
        name: Tensor(array.shape, array.dtype, Path("memory"), index, lambda array=array: array)
        for index, (name, array) in enumerate(arrays.items())
    }


def need_package(name: str) -> Any:
    """Return a module of the extra `trained`.

    Raises:
      ConversionError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConversionError(f"needs {name.partition('.')[0]}: pip install 'empatheia-jax[trained]'") from error
