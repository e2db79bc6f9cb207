"""A state by flat names: what checkpoints and weights on disk share."""

import jax
from flax import nnx


class CheckpointError(ValueError):
    """A checkpoint that is missing or does not belong to this model: says where and what to do."""


class DiskError(CheckpointError):
    """The disk takes no checkpoint: nothing is wrong with the run, which goes on from the one before."""


def named(state: nnx.State) -> dict[str, jax.Array]:
    """Flat names -> arrays: a form that outlives changes of module classes."""
    return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def filled(state: nnx.State, arrays: dict[str, jax.Array]) -> nnx.State:
    """A state like `state`, perhaps abstract, with the arrays of these names (`named`)."""
    flat = [(path, variable.replace(arrays["/".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)
