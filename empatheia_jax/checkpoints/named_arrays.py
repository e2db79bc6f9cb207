"""Parameters by flat names, as checkpoints and weights hold them on disk, and the errors of both."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx


class CheckpointError(ValueError):
    """A checkpoint is missing or does not belong to this model; says where, and what to do."""


class DiskError(CheckpointError):
    """The disk refused a checkpoint; the run can be resumed from the one before."""


def named_arrays(state: nnx.State) -> dict[str, jax.Array]:
    """Return flat name -> array, a form that does not depend on module classes."""
    return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def with_arrays(state: nnx.State, arrays: Mapping[str, jax.Array | np.ndarray]) -> nnx.State:
    """Return a state like `state`, which may be abstract, with the arrays of these names (`named_arrays`)."""
    flat = [(path, variable.replace(arrays["/".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)
