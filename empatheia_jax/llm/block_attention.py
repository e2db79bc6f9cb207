"""Causal attention a block of queries at a time, with a backward pass of its own: the `xla` path of `attention`.

Query block i meets the keys from the first that any of its tokens may see to the block's own end, so the square of all
logits is never in memory and what the causal mask hides is not computed. Forward keeps, beside what goes in and comes
out, one float32 a query and head (the log of the softmax's sum): the backward pass redoes one product and one
exponential, no maximum and no sum (Dao et al., FlashAttention, 2022, algorithm 4, with blocks of queries only).

Every product meets its operands as they lie in memory: what is transposed are arrays of d columns, never the T x S
weights, and behind a barrier, or it would be folded into the product again. XLA's CPU backend runs the other products
at a quarter of the speed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30  # added to a logit that must not count; finite, so that a row that sees nothing is free of NaN
BLOCK = 64  # queries a block, at least
MAX_BLOCKS = 8  # each is compiled
RESIDUAL = "attention_residual"  # under this name a remat policy finds what the backward pass reads


def block_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, longest: int | None = None
) -> jax.Array:
    """Causal softmax attention of query [B, T, H, d] over key, value [B, T, K, d] -> [B, T, H, d].

    Args:
      segment_ids: int [B, T]; a token sees earlier tokens of its own segment only. None: all earlier tokens.
      longest: most tokens of a segment, static: keys further back than that are not read. None: T.
    """
    length = query.shape[1]
    keys, values = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)  # [B, K, T, d]
    return ungroup(_attend(group(query, key.shape[2]), keys, values, segment_ids, min(longest or length, length)))


def group(query: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, H, d] -> scaled [B, K, H/K, T, d]: the query heads that read one key head, together."""
    rows, length, heads, head_dim = query.shape
    grouped = (query * head_dim**-0.5).reshape(rows, length, kv_heads, heads // kv_heads, head_dim)
    return grouped.transpose(0, 2, 3, 1, 4)


def ungroup(out: jax.Array) -> jax.Array:
    """[B, K, H/K, T, d] -> [B, T, H, d]."""
    rows, kv_heads, per_key, length, head_dim = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, length, kv_heads * per_key, head_dim)


def spans(length: int, longest: int) -> list[tuple[int, int, int]]:
    """(first key, first query, end of both) of every block of a row; first keys are multiples of `BLOCK`."""
    size = max(BLOCK, -(-length // MAX_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        first = max(start - longest + 1, 0) // BLOCK * BLOCK
        blocks.append((first, start, min(start + size, length)))
    return blocks


def _bias(segment_ids: jax.Array | None, span: tuple[int, int, int]) -> jax.Array:
    """float32 [B or 1, 1, 1, n, s]: 0 where a query of the span may read a key, else `MASKED`."""
    first, start, end = span
    seen = (jnp.arange(start, end)[:, None] >= jnp.arange(first, end))[None]
    if segment_ids is not None:
        seen = seen & (segment_ids[:, start:end, None] == segment_ids[:, None, first:end])
    return jnp.where(seen, 0.0, MASKED)[:, None, None]


def _logits(query: jax.Array, key: jax.Array, bias: jax.Array) -> jax.Array:
    """float32 [B, K, G, n, s] of query [B, K, G, n, d] and key [B, K, s, d]."""
    return _rows_by_rows(query, key).reshape(*query.shape[:-1], -1) + bias


def _rows_by_rows(left: jax.Array, right: jax.Array) -> jax.Array:
    """[B, K, G, n, d] by [B, K, s, d] -> float32 [B, K, G * n, s]."""
    folded = left.reshape(*left.shape[:2], -1, left.shape[-1])
    return jnp.einsum("bknd,bksd->bkns", folded, right, preferred_element_type=jnp.float32)


def _weighted(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Weights [B, K, G, n, s] by values [B, K, s, d] -> float32 [B, K, G, n, d]."""
    folded = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    out = jnp.einsum("bkns,bksd->bknd", folded, values, preferred_element_type=jnp.float32)
    return out.reshape(*weights.shape[:-1], -1)


def _gathered(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """Weights [B, K, G, n, s] and rows [B, K, G, n, d] -> float32 [B, K, d, s], summed over G and n."""
    folded = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    turned = jnp.swapaxes(rows.reshape(*rows.shape[:2], -1, rows.shape[-1]), 2, 3)  # [B, K, d, G * n]
    turned = jax.lax.optimization_barrier(turned)
    return jnp.einsum("bkdn,bkns->bkds", turned, folded, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query, key, value, segment_ids, longest):
    return _forward(query, key, value, segment_ids, longest)[0]


def _forward(query, key, value, segment_ids, longest):
    """(out [B, K, G, T, d] in query's dtype, log of the softmax's sum float32 [B, K, G, T, 1])."""
    outs, sums = [], []
    for span in spans(query.shape[3], longest):
        first, start, end = span
        logits = _logits(query[:, :, :, start:end], key[:, :, first:end], _bias(segment_ids, span))
        most = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - most)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        outs.append((_weighted(weights.astype(value.dtype), value[:, :, first:end]) / total).astype(query.dtype))
        sums.append(most + jnp.log(total))
    return jnp.concatenate(outs, axis=3), jnp.concatenate(sums, axis=3)


def _attend_forward(query, key, value, segment_ids, longest):
    out, log_sum = _forward(query, key, value, segment_ids, longest)
    out, log_sum = checkpoint_name(out, RESIDUAL), checkpoint_name(log_sum, RESIDUAL)
    return out, (query, key, value, segment_ids, out, log_sum)


def _attend_backward(longest, kept, d_out):
    query, key, value, segment_ids, out, log_sum = kept
    dot = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)  # [B, K, G, T, 1]
    d_query = []
    turned = jnp.swapaxes(key, 2, 3).shape  # [B, K, d, T]
    d_key, d_value = jnp.zeros(turned, jnp.float32), jnp.zeros(turned, jnp.float32)
    for span in spans(query.shape[3], longest):
        first, start, end = span
        q, d = query[:, :, :, start:end], d_out[:, :, :, start:end]
        k, v = key[:, :, first:end], value[:, :, first:end]
        weights = jnp.exp(_logits(q, k, _bias(segment_ids, span)) - log_sum[:, :, :, start:end])
        d_logits = weights * (_rows_by_rows(d, v).reshape(weights.shape) - dot[:, :, :, start:end])
        d_logits = d_logits.astype(query.dtype)
        d_query.append(_weighted(d_logits, k).astype(query.dtype))
        d_value = d_value.at[..., first:end].add(_gathered(weights.astype(value.dtype), d))
        d_key = d_key.at[..., first:end].add(_gathered(d_logits, q))
    d_key, d_value = jnp.swapaxes(d_key, 2, 3), jnp.swapaxes(d_value, 2, 3)
    return jnp.concatenate(d_query, axis=3), d_key.astype(key.dtype), d_value.astype(value.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)
