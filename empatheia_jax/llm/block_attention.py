"""Causal attention a block of queries at a time, with a backward pass of its own: the `xla` path of `attention`.

Query block i attends to the keys from the first that any of its tokens may attend to up to the block's own end, so the
T x T logits are never all in memory and what the causal mask hides is not computed. Beside its inputs and its output,
the forward pass keeps one float32 per query and head (the log of the softmax's sum): the backward pass recomputes one
matmul and one exponential, no maximum and no sum (Dao et al., FlashAttention, 2022, algorithm 4, with blocks of queries
only).

Every matmul reads its operands in their memory layout: only arrays of d columns are transposed, never the T x S
weights, and behind an optimization barrier, since XLA would otherwise fold the transposition into the matmul. XLA's CPU
backend runs matmuls of other layouts at a quarter of the speed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from empatheia_jax.model.shapes import Array, Float, Int

MASKED = -1e30  # added to a masked logit; finite, so that a fully masked query gives no NaN
BLOCK = 64  # fewest queries in a block
MAX_BLOCKS = 8  # every block is compiled separately
RESIDUAL = "attention_residual"  # the checkpoint name of the residuals, for remat policies


def block_attention(
    query: Float[Array, "B T H d"],
    key: Float[Array, "B T K d"],
    value: Float[Array, "B T K d"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    max_segment_length: int | None = None,
) -> Float[Array, "B T H d"]:
    """Compute causal softmax attention.

    Args:
      query: after RoPE.
      key: after RoPE.
      value: of each key.
      segment_ids: a token attends to earlier tokens of its own segment only. None: to all earlier tokens.
      max_segment_length: most tokens of a segment (static): keys further back than that are not read. None: T.

    Returns:
      The attended values, in query's dtype.
    """
    length = query.shape[1]
    keys, values = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)  # [B, K, T, d]
    return ungroup(
        _attend((group(query, key.shape[2]), keys, values), segment_ids, min(max_segment_length or length, length))
    )


def group(query: Float[Array, "B T H d"], kv_heads: int) -> Float[Array, "B {kv_heads} G T d"]:
    """Scale queries, and group the G = H / K query heads that read one key head."""
    batch, length, heads, head_dim = query.shape
    grouped = (query * head_dim**-0.5).reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    return grouped.transpose(0, 2, 3, 1, 4)


def ungroup(out: Float[Array, "B K G T d"]) -> Float[Array, "B T K*G d"]:
    """Undo the grouping."""
    batch, kv_heads, group_size, length, head_dim = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * group_size, head_dim)


def spans(length: int, max_segment_length: int) -> list[tuple[int, int, int]]:
    """Return (first key, first query, end of both) of every block; first keys are multiples of `BLOCK`."""
    size = max(BLOCK, -(-length // MAX_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        first = max(start - max_segment_length + 1, 0) // BLOCK * BLOCK
        blocks.append((first, start, min(start + size, length)))
    return blocks


def _bias(segment_ids: Int[Array, "B T"] | None, span: tuple[int, int, int]) -> Float[Array, "#B 1 1 n s"]:
    """Return float32: 0 where a query of the span may attend to a key, else `MASKED`."""
    first, start, end = span
    mask = (jnp.arange(start, end)[:, None] >= jnp.arange(first, end))[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, start:end, None] == segment_ids[:, None, first:end])
    return jnp.where(mask, 0.0, MASKED)[:, None, None]


def _logits(
    query: Float[Array, "B K G n d"], key: Float[Array, "B K s d"], bias: Float[Array, "#B 1 1 n s"]
) -> Float[Array, "B K G n s"]:
    """Return the float32 logits."""
    return _dot_products(query, key).reshape(*query.shape[:-1], -1) + bias


def _dot_products(left: Float[Array, "B K G n d"], right: Float[Array, "B K s d"]) -> Float[Array, "B K G*n s"]:
    """Return the float32 dot products."""
    folded = left.reshape(*left.shape[:2], -1, left.shape[-1])
    return jnp.einsum("bknd,bksd->bkns", folded, right, preferred_element_type=jnp.float32)


def _weighted_sum(weights: Float[Array, "B K G n s"], values: Float[Array, "B K s d"]) -> Float[Array, "B K G n d"]:
    """Return the values summed with weights, float32."""
    folded = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    out = jnp.einsum("bkns,bksd->bknd", folded, values, preferred_element_type=jnp.float32)
    return out.reshape(*weights.shape[:-1], -1)


def _sum_over_queries(
    weights: Float[Array, "B K G n s"], vectors: Float[Array, "B K G n d"]
) -> Float[Array, "B K d s"]:
    """Return the vectors summed over G and n with weights, float32."""
    folded = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    transposed = jnp.swapaxes(vectors.reshape(*vectors.shape[:2], -1, vectors.shape[-1]), 2, 3)  # [B, K, d, G * n]
    transposed = jax.lax.optimization_barrier(transposed)
    return jnp.einsum("bkdn,bkns->bkds", transposed, folded, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attend(qkv, segment_ids, max_segment_length):
    return _forward(qkv, segment_ids, max_segment_length)[0]


def _forward(qkv, segment_ids, max_segment_length):
    """Return the output [B, K, G, T, d] in query's dtype and the log of the softmax's sum, float32 [B, K, G, T, 1]."""
    (query, key, value), outs, sums = qkv, [], []
    for span in spans(query.shape[3], max_segment_length):
        first, start, end = span
        logits = _logits(query[:, :, :, start:end], key[:, :, first:end], _bias(segment_ids, span))
        largest = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        outs.append((_weighted_sum(weights.astype(value.dtype), value[:, :, first:end]) / total).astype(query.dtype))
        sums.append(largest + jnp.log(total))
    return jnp.concatenate(outs, axis=3), jnp.concatenate(sums, axis=3)


def _attend_forward(qkv, segment_ids, max_segment_length):
    out, log_sum = _forward(qkv, segment_ids, max_segment_length)
    out, log_sum = checkpoint_name(out, RESIDUAL), checkpoint_name(log_sum, RESIDUAL)
    return out, (qkv, segment_ids, out, log_sum)


def _attend_backward(max_segment_length, residuals, d_out):
    (query, key, value), segment_ids, out, log_sum = residuals
    dot = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)  # [B, K, G, T, 1]
    d_query = []
    transposed = jnp.swapaxes(key, 2, 3).shape  # [B, K, d, T]
    d_key, d_value = jnp.zeros(transposed, jnp.float32), jnp.zeros(transposed, jnp.float32)
    for span in spans(query.shape[3], max_segment_length):
        first, start, end = span
        q, d = query[:, :, :, start:end], d_out[:, :, :, start:end]
        k, v = key[:, :, first:end], value[:, :, first:end]
        weights = jnp.exp(_logits(q, k, _bias(segment_ids, span)) - log_sum[:, :, :, start:end])
        d_logits = weights * (_dot_products(d, v).reshape(weights.shape) - dot[:, :, :, start:end])
        d_logits = d_logits.astype(query.dtype)
        d_query.append(_weighted_sum(d_logits, k).astype(query.dtype))
        d_value = d_value.at[..., first:end].add(_sum_over_queries(weights.astype(value.dtype), d))
        d_key = d_key.at[..., first:end].add(_sum_over_queries(d_logits, q))
    d_key, d_value = jnp.swapaxes(d_key, 2, 3), jnp.swapaxes(d_value, 2, 3)
    return (jnp.concatenate(d_query, axis=3), d_key.astype(key.dtype), d_value.astype(value.dtype)), None


_attend.defvjp(_attend_forward, _attend_backward)
