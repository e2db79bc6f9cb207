"""Attention of the LLM behind one switch: xla (anywhere), cudnn (NVIDIA, bf16), splash (TPU).

Queries [B, T, H, d], keys and values [B, S, K, d] with H a multiple of K (grouped queries: head h reads key head
h // (H / K)). Logits and softmax are float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from empatheia_jax import sharding
from empatheia_jax.llm.block_attention import MASKED, RESIDUAL, block_attention, group, ungroup

BLOCKS = (512, 256, 128)  # queries and keys a block of splash's kernels: the first that divides a row


class AttentionError(ValueError):
    """Shapes or a device that the chosen attention cannot serve."""


def rotary_angles(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine [B, T, 1, d / 2], float32, of positions [B, T] at the rotary `frequencies` [d / 2]."""
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (i, i + d/2) of x [B, T, heads, d] by the angles (RoPE in transformers' half-split layout)."""
    cosine, sine = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    kind: str,
    longest: int | None = None,
) -> jax.Array:
    """Causal self-attention over rows of T tokens -> [B, T, H, d].

    `segment_ids` int [B, T] keeps packed Examples apart: a token sees itself and the earlier tokens of its segment.
    Padding (segment 0) sees padding, so every softmax has something to read; nobody reads it. None: one Example a row,
    with padding, if any, on the right. `longest`, static, is the most tokens of a segment, where less than T.
    """
    if kind == "splash":
        return _splash(query, key, value, segment_ids, longest)
    if kind == "cudnn":
        # Without segments the flash kernel runs its causal path; with them cuDNN reads the mask as a bias.
        mask = None if segment_ids is None else packed_mask(segment_ids)
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=mask is None, implementation="cudnn"
        )
    return block_attention(query, key, value, segment_ids, longest)


def attend_cached(query: jax.Array, key: jax.Array, value: jax.Array, positions: jax.Array) -> jax.Array:
    """A query at position p [B, T] reads the cache slots 0 to p of key, value [B, S, K, d] -> [B, T, H, d]."""
    seen = jnp.arange(key.shape[1]) <= positions[..., None]  # [B, T, S]
    grouped = group(query, key.shape[2])
    return ungroup(_weigh(grouped, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2), seen))


def packed_mask(segment_ids: jax.Array) -> jax.Array:
    """bool [B, 1, T, T]: same segment and not later."""
    causal = jnp.tril(jnp.ones((segment_ids.shape[1],) * 2, bool))
    return (causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))[:, None]


def _weigh(query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax attention of query [B, K, G, T, d] over key, value [B, K, S, d] where seen [B or 1, T, S].

    The sum is divided out after the values are summed, on [.., d] rather than [.., S], and the mask is added, not
    selected: its gradient needs no residual. Finite masking keeps rows that see nothing free of NaN.
    """
    rows, kv_heads, per_key, length, head_dim = query.shape
    folded = query.reshape(rows, kv_heads, per_key * length, head_dim)
    logits = jnp.einsum("bknd,bksd->bkns", folded, key, preferred_element_type=jnp.float32)
    logits = logits.reshape(rows, kv_heads, per_key, length, -1) + jnp.where(seen, 0.0, MASKED)[:, None, None]
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    flat = weights.reshape(rows, kv_heads, per_key * length, -1).astype(value.dtype)
    out = jnp.einsum("bkns,bksd->bknd", flat, value, preferred_element_type=jnp.float32)
    return (out.reshape(query.shape) / total).astype(query.dtype)


def _splash_kernel(heads: int, length: int, longest: int | None, interpret: bool):
    """The kernel; made anew in every trace, whose constants its mask tables are (JAX keeps what is slow to make)."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    square = (length, length)
    if longest is None or longest >= length:
        seen = splash_attention_mask.CausalMask(square)
    else:  # blocks of keys further back are left out
        seen = splash_attention_mask.LocalMask(square, (longest - 1, 0), 0)
    mask = splash_attention_mask.MultiHeadMask([seen] * heads)
    block = next(size for size in BLOCKS if length % size == 0)
    # JAX's own choice is 128 for all, many small steps of the grid; MaxText takes 512 for head dimensions like ours.
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


def _splash(query, key, value, segment_ids: jax.Array | None, longest: int | None) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    length, _, head_dim = query.shape[1:]
    if length % BLOCKS[-1]:
        raise AttentionError(f"llm.attention splash needs rows of a multiple of {BLOCKS[-1]} tokens, not {length}")
    interpret = lowered_for() != "tpu"  # slow, for tests: the kernel itself is written for TPU

    def rows(query, key, value, ids=None):
        kernel = _splash_kernel(query.shape[1], length, longest, interpret)
        if ids is None:
            return jax.vmap(kernel)(query, key, value)
        return jax.vmap(kernel)(query, key, value, splash_attention_kernel.SegmentIds(q=ids, kv=ids))

    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query * head_dim**-0.5, key, value))  # [B, heads, T, d]
    inputs = (query, key, value) if segment_ids is None else (query, key, value, segment_ids)
    if sharding.active_mesh() is not None:  # XLA cannot split a kernel: each device runs it on its rows and heads
        split = PartitionSpec(sharding.BATCH_AXES, sharding.RULES["heads"])
        specs = (split, split, split, PartitionSpec(sharding.BATCH_AXES))[: len(inputs)]
        rows = jax.shard_map(rows, in_specs=specs, out_specs=split, check_vma=False)
    return jnp.swapaxes(rows(*inputs), 1, 2)


def lowered_for() -> str:
    """The platform that is being traced for: that of the active mesh's devices, which need not be here, else JAX's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
