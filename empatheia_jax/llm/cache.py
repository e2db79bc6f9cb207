"""The static key-value cache: slot s of a row holds the key of position s.

Rows advance on their own (ragged batches): a chunk of any length is appended at its `positions`, and a query at
position p reads the slots 0 to p. Rows are filled from 0 without gaps, so these are exactly the written ones; rows may
be wound back by writing earlier positions again. A token whose position is `capacity` or more is padding: it is not
written.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from empatheia_jax.config import LlamaConfig


class Cache(NamedTuple):
    """Keys (after RoPE) and values [L, B, S, K, d] in the compute dtype."""

    keys: jax.Array
    values: jax.Array

    @property
    def capacity(self) -> int:
        """S, the positions a row can hold."""
        return self.keys.shape[2]


def empty_cache(config: LlamaConfig, rows: int, capacity: int) -> Cache:
    """A cache of zeros for `rows` sequences of up to `capacity` positions."""
    shape = (config.layers, rows, capacity, config.kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape, config.compute_dtype))


def chunk_positions(start: jax.Array, lengths: jax.Array, chunk: int, capacity: int) -> jax.Array:
    """int32 [B, C]: `start` [B] onwards for the first `lengths` [B] tokens of a chunk, `capacity` for its padding."""
    offsets = jnp.arange(chunk)
    return jnp.where(offsets < lengths[:, None], start[:, None] + offsets, capacity).astype(jnp.int32)


def write_layer(
    cache: Cache, layer: jax.Array, key: jax.Array, value: jax.Array, positions: jax.Array
) -> tuple[Cache, jax.Array, jax.Array]:
    """Write key, value [B, T, K, d] of one layer at positions [B, T]; return the cache and that layer [B, S, K, d].

    The whole cache stays a loop carry and is updated in place: handing the scan one layer in and one out would copy it.
    """
    rows = jnp.arange(key.shape[0])[:, None]
    keys = cache.keys.at[layer, rows, positions].set(key, mode="drop")
    values = cache.values.at[layer, rows, positions].set(value, mode="drop")
    read = [jax.lax.dynamic_index_in_dim(array, layer, 0, keepdims=False) for array in (keys, values)]
    return Cache(keys, values), *read


def take_rows(cache: Cache, rows: jax.Array, positions: int | None = None) -> Cache:
    """A copy of `rows` int [G], their first `positions`. A row that the cache does not have is a copy of another."""
    window = slice(None if positions is None else positions)
    return Cache(*(array.at[:, rows, window].get(mode="clip") for array in cache))


def put_rows(cache: Cache, rows: jax.Array, part: Cache) -> Cache:
    """The cache with the first positions of `rows` int [G] replaced by `part`; in place where the cache is donated.

    A row that the cache does not have is dropped.
    """
    window = slice(part.capacity)
    return Cache(*(old.at[:, rows, window].set(new, mode="drop") for old, new in zip(cache, part, strict=True)))
