"""Damage one key of a checkpoint."""

import numpy as np

from converters.tensors import Tensor, wrap_arrays

WAYS = ("dropped", "renamed", "reshaped", "doubled")


def spoil(tensors: dict[str, Tensor], name: str, how: str) -> dict[str, Tensor]:
    """Return the tensors with `name` damaged in one of `WAYS`."""
    damaged = dict(tensors)
    if how == "dropped":
        del damaged[name]
    elif how == "renamed":
        damaged[name + "x"] = damaged.pop(name)
    elif how == "doubled":
        damaged[name + ".more"] = damaged[name]
    else:
        shape = (*tensors[name].shape, 2)
        damaged |= wrap_arrays({name: np.broadcast_to(np.zeros((), tensors[name].dtype), shape)})  # no memory
    return damaged
