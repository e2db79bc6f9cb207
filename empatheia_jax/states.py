"""A state by flat names, and JSON files that are whole or absent: what checkpoints and weights on disk share."""

import json
from pathlib import Path

import jax
from flax import nnx


class CheckpointError(ValueError):
    """A checkpoint that is missing or does not belong to this model: says where and what to do."""


def named(state: nnx.State) -> dict[str, jax.Array]:
    """Flat names -> arrays: a form that outlives changes of module classes."""
    return {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def filled(state: nnx.State, arrays: dict[str, jax.Array]) -> nnx.State:
    """A state like `state`, perhaps abstract, with the arrays of these names (`named`)."""
    flat = [(path, variable.replace(arrays["/".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)


def write_json(path: Path, value) -> None:
    """Write JSON by rename, so that a killed process leaves the old file or the new one."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
