"""The static key-value cache: entry s of a sequence holds the key and value of its position s.

Sequences advance independently (ragged batches): a chunk of any length is appended at its `positions`, and a query at
position p reads the entries 0 to p. A sequence is filled from 0 without gaps, so these are exactly the written ones; it
may be rewound by writing earlier positions again. A token whose position is `capacity` or more is padding: it is not
written.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from empatheia_jax.config import LlamaConfig
from empatheia_jax.model.shapes import Array, Float, Int


class Cache(NamedTuple):
    """Keys (after RoPE) and values of B sequences, in the compute dtype."""

    keys: Float[Array, "L B S K d"]
    values: Float[Array, "L B S K d"]

    @property
    def capacity(self) -> int:
        """S, the number of positions that a sequence can hold."""
        return self.keys.shape[2]


def empty_cache(config: LlamaConfig, batch: int, capacity: int) -> Cache:
    """Return a cache of zeros for `batch` sequences of up to `capacity` positions."""
    shape = (config.layers, batch, capacity, config.kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape, config.compute_dtype))


def chunk_positions(
    start: Int[Array, " B"], lengths: Int[Array, " B"], chunk: int, capacity: int
) -> Int[Array, "B {chunk}"]:
    """Return the positions of a chunk's tokens, int32.

    Args:
      start: position of the chunk's first token.
      lengths: tokens of the chunk; the others are padding, whose position is `capacity`.
      chunk: C, static.
      capacity: of the cache.
    """
    offsets = jnp.arange(chunk)
    return jnp.where(offsets < lengths[:, None], start[:, None] + offsets, capacity).astype(jnp.int32)


def write_layer(
    cache: Cache,
    layer: Int[Array, ""] | int,
    key: Float[Array, "B T K d"],
    value: Float[Array, "B T K d"],
    *,
    positions: Int[Array, "B T"],
) -> tuple[Cache, Float[Array, "B S K d"], Float[Array, "B S K d"]]:
    """Write the keys and values of one layer.

    The whole cache stays a loop carry and is updated in place: a scan that takes and returns single layers would copy
    it.

    Args:
      cache: to be written; give it up to have it updated in place.
      layer: index of the layer.
      key: after RoPE.
      value: of each key.
      positions: of the tokens.

    Returns:
      The cache, and all keys and values of that layer.
    """
    sequences = jnp.arange(key.shape[0])[:, None]
    keys = cache.keys.at[layer, sequences, positions].set(key, mode="drop")
    values = cache.values.at[layer, sequences, positions].set(value, mode="drop")
    read = [jax.lax.dynamic_index_in_dim(array, layer, 0, keepdims=False) for array in (keys, values)]
    return Cache(keys, values), *read


def take_sequences(cache: Cache, sequences: Int[Array, " G"], positions: int | None = None) -> Cache:
    """Copy some sequences out of a cache.

    Args:
      cache: of B sequences.
      sequences: indices of them; an index out of range gives a copy of another sequence.
      positions: how many first positions are copied (static); None: all.
    """
    window = slice(None if positions is None else positions)
    return Cache(*(array.at[:, sequences, window].get(mode="clip") for array in cache))


def put_sequences(cache: Cache, sequences: Int[Array, " G"], part: Cache) -> Cache:
    """Return the cache with the first positions of some sequences replaced; in place where the cache is donated.

    Args:
      cache: of B sequences.
      sequences: indices of those that are replaced; indices out of range are ignored.
      part: cache of G sequences.
    """
    window = slice(part.capacity)
    return Cache(*(old.at[:, sequences, window].set(new, mode="drop") for old, new in zip(cache, part, strict=True)))
