"""A checkpoint that fits a family: what `convert` moves."""

import dataclasses
import functools
from pathlib import Path
from types import ModuleType

from flax import nnx

from converters.readers import Tensor
from converters.rules import Fit


@dataclasses.dataclass(frozen=True)
class Source:
    """Settings, tensors and where each array of ours comes from."""

    family: str
    folder: Path
    settings: dict  # as published: transformers' config.json, say
    config: object  # ours
    tensors: dict[str, Tensor]
    prefix: str  # before every name
    fits: list[Fit]


@functools.lru_cache(maxsize=4)
def network_of(network: type[nnx.Module], config) -> tuple[nnx.GraphDef, nnx.State]:
    """A network's structure, and shapes and dtypes of its parameters: no array is made."""
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))


def abstract(table: ModuleType, config) -> nnx.State:
    """Shapes and dtypes of every parameter of a family's network."""
    return network_of(table.NETWORK, config)[1]
