"""Attention of the LLM behind one switch: xla (anywhere), cudnn (NVIDIA, bf16), splash (TPU).

Queries [B, T, H, d], keys and values [B, S, K, d] with H a multiple of K (grouped queries: head h reads key head
h // (H / K)). Logits and softmax are float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from empatheia_jax.llm.block_attention import MASKED, RESIDUAL, block_attention, group, ungroup
from empatheia_jax.model import sharding
from empatheia_jax.model.shapes import Array, Bool, Float, Int

SPLASH_BLOCKS = (512, 256, 128)  # queries and keys in a block of splash's kernels: the first that divides T is taken


class AttentionError(ValueError):
    """A shape that the chosen attention kernel cannot take."""


Angles = tuple[Float[Array, "B T 1 half"], Float[Array, "B T 1 half"]]  # cosine and sine, float32


def rotary_angles(positions: Int[Array, "B T"], frequencies: Float[np.ndarray | jax.Array, " half"]) -> Angles:
    """Return the rotary angles of positions; `frequencies` are radians a position."""
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]


def rotate(x: Float[Array, "B T H d"], angles: Angles) -> Float[Array, "B T H d"]:
    """Rotate the pairs (i, i + d/2) of x by the angles (RoPE in transformers' half-split layout)."""
    cosine, sine = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def attend(
    query: Float[Array, "B T H d"],
    key: Float[Array, "B T K d"],
    value: Float[Array, "B T K d"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    implementation: str,
    max_segment_length: int | None = None,
) -> Float[Array, "B T H d"]:
    """Compute causal self-attention over batch rows of T tokens.

    Args:
      query: after RoPE.
      key: after RoPE.
      value: of each key.
      segment_ids: keeps packed Examples apart: a token attends to itself and to the earlier tokens of its
        segment. Padding (segment 0) attends to padding, so that no softmax is empty; its output is not used. None: one
        Example in each row, with padding, if any, on the right.
      implementation: "xla", "cudnn" or "splash".
      max_segment_length: most tokens of a segment (static); None: T.

    Returns:
      The attended values, in query's dtype.

    Raises:
      AttentionError: splash with a T that its blocks do not divide.
    """
    if implementation == "splash":
        return _splash(query, key, value, segment_ids, max_segment_length=max_segment_length)
    if implementation == "cudnn":
        # Without segments the flash kernel runs its causal path; with them cuDNN reads the mask as a bias.
        mask = None if segment_ids is None else packed_mask(segment_ids)
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=mask is None, implementation="cudnn"
        )
    return block_attention(query, key, value, segment_ids, max_segment_length=max_segment_length)


def attend_cached(
    query: Float[Array, "B T H d"],
    key: Float[Array, "B S K d"],
    value: Float[Array, "B S K d"],
    positions: Int[Array, "B T"],
) -> Float[Array, "B T H d"]:
    """Compute attention on a cache: a query at position p reads the cached positions 0 to p.

    Args:
      query: after RoPE.
      key: the cache's, S its capacity.
      value: the cache's.
      positions: of the queries.

    Returns:
      The attended values, in query's dtype.
    """
    mask = jnp.arange(key.shape[1]) <= positions[..., None]  # [B, T, S]
    grouped = group(query, key.shape[2])
    return ungroup(_dense_attention(grouped, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2), mask))


def packed_mask(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Return the mask: True where a key has the query's segment and is not later than it."""
    causal = jnp.tril(jnp.ones((segment_ids.shape[1],) * 2, bool))
    return (causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))[:, None]


def _dense_attention(
    query: Float[Array, "B K G T d"],
    key: Float[Array, "B K S d"],
    value: Float[Array, "B K S d"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B K G T d"]:
    """Compute softmax attention where the mask is true.

    The softmax's sum is divided out after the values are summed, on [.., d] rather than [.., S]. The mask is added, not
    selected, so that its gradient needs no residual; it is finite, so that a fully masked query gives no NaN.
    """
    batch, kv_heads, group_size, length, head_dim = query.shape
    folded = query.reshape(batch, kv_heads, group_size * length, head_dim)
    logits = jnp.einsum("bknd,bksd->bkns", folded, key, preferred_element_type=jnp.float32)
    logits = logits.reshape(batch, kv_heads, group_size, length, -1) + jnp.where(mask, 0.0, MASKED)[:, None, None]
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    flat = weights.reshape(batch, kv_heads, group_size * length, -1).astype(value.dtype)
    out = jnp.einsum("bkns,bksd->bknd", flat, value, preferred_element_type=jnp.float32)
    return (out.reshape(query.shape) / total).astype(query.dtype)


def _splash_kernel(heads: int, length: int, max_segment_length: int | None, interpret: bool):
    """Make the kernel; it cannot be reused in another trace, because its mask tables are constants of the trace."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    square = (length, length)
    if max_segment_length is None or max_segment_length >= length:
        head_mask = splash_attention_mask.CausalMask(square)
    else:  # skips blocks of keys that are further back than any segment reaches
        head_mask = splash_attention_mask.LocalMask(square, (max_segment_length - 1, 0), 0)
    mask = splash_attention_mask.MultiHeadMask([head_mask] * heads)
    block = next(size for size in SPLASH_BLOCKS if length % size == 0)
    # JAX's default, 128 everywhere, makes many small grid steps; MaxText takes 512 for such head dimensions.
    names = (
        "block_q",
        "block_kv",
        "block_kv_compute",
        "block_q_dkv",
        "block_kv_dkv",
        "block_kv_dkv_compute",
        "block_q_dq",
        "block_kv_dq",
    )
    return splash_attention_kernel.make_splash_mha(
        mask,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=RESIDUAL,
        interpret=interpret,
        block_sizes=splash_attention_kernel.BlockSizes(**dict.fromkeys(names, block)),
    )


def _splash(query, key, value, segment_ids: Int[Array, "B T"] | None, *, max_segment_length: int | None) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    length, _, head_dim = query.shape[1:]
    if length % SPLASH_BLOCKS[-1]:
        raise AttentionError(
            f"llm.attention splash needs rows of a multiple of {SPLASH_BLOCKS[-1]} tokens, not {length}"
        )
    interpret = lowering_platform() != "tpu"  # slow, for tests: the kernel is compiled on TPU only

    def run_kernel(query, key, value, ids=None) -> Any:
        kernel = _splash_kernel(query.shape[1], length, max_segment_length, interpret)
        if ids is None:
            return jax.vmap(kernel)(query, key, value)
        return jax.vmap(kernel)(query, key, value, splash_attention_kernel.SegmentIds(q=ids, kv=ids))

    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query * head_dim**-0.5, key, value))  # [B, heads, T, d]
    inputs = (query, key, value) if segment_ids is None else (query, key, value, segment_ids)
    # XLA cannot partition a kernel: each device runs it on its own rows and heads.
    if sharding.active_mesh() is not None:
        split = PartitionSpec(sharding.BATCH_AXES, sharding.RULES["heads"])
        specs = (split, split, split, PartitionSpec(sharding.BATCH_AXES))[: len(inputs)]
        run_kernel = jax.shard_map(run_kernel, in_specs=specs, out_specs=split, check_vma=False)
    return jnp.swapaxes(run_kernel(*inputs), 1, 2)


def lowering_platform() -> str:
    """Return the platform that is traced for: that of the active mesh (which may be abstract), else JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
