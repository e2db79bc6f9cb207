"""Initial values cut from few random draws, because XLA takes 0.3 to 1 s of CPU to compile each draw.

`draw_stacked` is for stacked layers, `draw_together` for modules of a hundred small parameters.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from empatheia_jax.model.shapes import Array, Float, PRNGKeyArray

T = TypeVar("T")
INIT_STD = 0.02  # of transformers' Llama


def draw_stacked(
    draw: Callable[..., jax.Array],
    key: PRNGKeyArray,
    shapes: dict[str, tuple[int, ...]],
    scales: dict[str, float],
    *,
    layers: int,
    dtype: str = "float32",
) -> dict[str, jax.Array]:
    """Draw the parameters of stacked layers: a loop over layers, each one flat draw that is cut up.

    Args:
      draw: (key, shape) -> values, such as `jax.random.normal`.
      key: of the whole stack.
      shapes: of one layer's parameters, by name.
      scales: factor of each parameter's values, by name.
      layers: L.
      dtype: of the result.

    Returns:
      name -> [L, *shape].
    """
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes.values()))

    def draw_layer(layer_key):
        pieces = jnp.split(draw(layer_key, (ends[-1],)), ends[:-1])
        named = zip(shapes.items(), pieces, strict=True)
        return {name: (scales[name] * piece.reshape(shape)).astype(dtype) for (name, shape), piece in named}

    return jax.lax.map(draw_layer, jax.random.split(key, layers))


@runtime_checkable
class NormalSource(Protocol):
    """What modules draw their parameters from: `nnx.Rngs`, or values that were drawn together."""

    def normal(self, shape: tuple[int, ...], /) -> jax.Array:
        """Return standard normal values, float32."""
        ...


class Normals:
    """Standard normal values, returned in order; replaces `nnx.Rngs` where modules call `rngs.normal`."""

    def __init__(self, values: Float[Array, " n"]):
        self._values, self._next = values, 0

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        """Return the next prod(shape) values as float32 [*shape]."""
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


def count_normals(create: Callable[[NormalSource], Any]) -> int:
    """Count the normal values that `create(rngs)` asks for; computes nothing."""
    counter = _Counter()

    def create_and_count():
        create(counter)

    jax.eval_shape(create_and_count)
    return counter.count


def draw_together(create: Callable[[NormalSource], T], rngs: NormalSource) -> T:
    """Return `create(rngs)`, with all normal values that it asks for drawn at once."""
    return create(Normals(rngs.normal((count_normals(create),))))
