"""One key of a checkpoint spoilt."""

import numpy as np

from converters.readers import Tensor, in_memory

WAYS = ("dropped", "renamed", "reshaped", "doubled")


def spoilt(tensors: dict[str, Tensor], name: str, how: str) -> dict[str, Tensor]:
    """The tensors with `name` spoilt in one of `WAYS`."""
    found = dict(tensors)
    if how == "dropped":
        del found[name]
    elif how == "renamed":
        found[name + "x"] = found.pop(name)
    elif how == "doubled":
        found[name + ".more"] = found[name]
    else:
        shape = (*tensors[name].shape, 2)
        found |= in_memory({name: np.broadcast_to(np.zeros((), tensors[name].dtype), shape)})  # no memory
    return found
