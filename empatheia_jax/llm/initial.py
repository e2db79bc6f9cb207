"""Random initial weights of stacked layers."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

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
