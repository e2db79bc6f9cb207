"""Initial values of the projectors and latents, cut from one random draw.

Compiling a random generator costs XLA about 0.3 s of CPU a call, and these parts have a hundred small parameters.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Normals:
    """Standard normal values [n], handed out in order; stands in for `nnx.Rngs` where modules call `rngs.normal`."""

    def __init__(self, values: jax.Array):
        self._values, self._next = values, 0

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        """The next prod(shape) values as float32 [*shape]."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._values.shape[0]:
            raise ValueError(f"Normals: {self._next} values asked for, {self._values.shape[0]} drawn")
        return self._values[start : self._next].reshape(shape)


class _Counter:
    def __init__(self):
        self.count = 0

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        self.count += math.prod(shape)
        return jnp.zeros(shape)


def count_normals(create: Callable[[Any], Any]) -> int:
    """How many normal values `create(rngs)` asks for; nothing is computed."""
    counter = _Counter()

    def counted():
        create(counter)

    jax.eval_shape(counted)
    return counter.count


def draw_together(create: Callable[[Any], Any], rngs: nnx.Rngs | Normals) -> Any:
    """`create(rngs)`, with all normal values that it asks for drawn at once."""
    return create(Normals(rngs.normal((count_normals(create),))))
