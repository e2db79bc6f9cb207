"""Initial values cut from few random draws: compiling a random generator costs XLA 0.3 to 1 s of CPU a call.

`draw_stacked` is for layers that are stacked, `draw_together` for parts of a hundred small parameters.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

INIT_STD = 0.02  # of transformers' Llama


def draw_stacked(
    draw: Callable[..., jax.Array],
    key: jax.Array,
    shapes: dict[str, tuple[int, ...]],
    scales: dict[str, float],
    *,
    layers: int,
    dtype: str = "float32",
) -> dict[str, jax.Array]:
    """{name: [L, *shape]} of `scales[name]` times `draw(key, shape)`.

    A layer is one flat draw, cut up, and the layers are a loop: compiling a random generator costs XLA up to a second
    of CPU a shape, and this way there is one instead of one a parameter.
    """
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes.values()))

    def one_layer(layer_key):
        pieces = jnp.split(draw(layer_key, (ends[-1],)), ends[:-1])
        named = zip(shapes.items(), pieces, strict=True)
        return {name: (scales[name] * piece.reshape(shape)).astype(dtype) for (name, shape), piece in named}

    return jax.lax.map(one_layer, jax.random.split(key, layers))


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
