"""A checkpoint that fits a family: what `convert` reads."""

import dataclasses
import functools
from pathlib import Path
from types import ModuleType

from flax import nnx

from converters.readers import Tensor
from converters.rules import Fit


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint's settings and tensors, and the tensors that each array on disk comes from."""

    family: str
    folder: Path
    settings: dict  # as published: transformers' config.json, say
    config: object  # of our network
    tensors: dict[str, Tensor]
    prefix: str  # before every name
    fits: list[Fit]


@functools.lru_cache(maxsize=4)
def abstract_network(network: type[nnx.Module], config) -> tuple[nnx.GraphDef, nnx.State]:
    """Return a network's structure and the shapes and dtypes of its parameters; no array is created."""
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))


def abstract_parameters(table: ModuleType, config) -> nnx.State:
    """Return shapes and dtypes of all parameters of a family's network."""
    return abstract_network(table.NETWORK, config)[1]
