"""Post-norm transformer layers with torch's packed attention weights, without positional encodings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.layers import LayerNorm, Linear


@functools.cache
def position_table(count: int, width: int) -> np.ndarray:
    """Return interleaved sinusoids [count, width]: sin at 2k, cos at 2k + 1, of p / 10000^(2k / width)."""
    angle = np.arange(count)[:, None] / 10_000 ** (2 * (np.arange(width) // 2) / width)
    return np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


class Attention(nnx.Module):
    """Attention as torch's MultiheadAttention: queries from x, keys and values from `memory`."""

    def __init__(self, width: int, heads: int):
        self.heads = heads
        self.in_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def __call__(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Attend from x [B, T, C] to memory [B, S, C] where `mask` bool [B, S] is true; returns [B, T, C]."""
        width = x.shape[-1]
        kernel, bias = self.in_proj.kernel[...].astype(x.dtype), self.in_proj.bias[...].astype(x.dtype)
        query = x @ kernel[:, :width] + bias[:width]
        key, value = jnp.split(memory @ kernel[:, width:] + bias[width:], 2, axis=-1)
        query, key, value = (part.reshape(*part.shape[:2], self.heads, -1) for part in (query, key, value))
        mask = None if mask is None else mask[:, None, None]
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return self.out_proj(mixed.reshape(x.shape))


class EncoderLayer(nnx.Module):
    """Attention and feed-forward network, with a norm after each residual sum."""

    def __init__(self, width: int, heads: int, mlp_width: int):
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = Linear(width, mlp_width), Linear(mlp_width, width)
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = self.norm1(x + self.self_attn(x, x, mask))
        return self.norm2(x + self.linear2(jax.nn.relu(self.linear1(x))))


class Encoder(nnx.Module):
    """A stack of encoder layers without a final norm."""

    def __init__(self, width: int, heads: int, mlp_width: int, layers: int):
        self.layers = nnx.List([EncoderLayer(width, heads, mlp_width) for _ in range(layers)])

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention and feed-forward network, with a norm after each residual sum."""

    def __init__(self, width: int, heads: int, mlp_width: int):
        self.self_attn, self.multihead_attn = Attention(width, heads), Attention(width, heads)
        self.linear1, self.linear2 = Linear(width, mlp_width), Linear(mlp_width, width)
        self.norm1, self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width), LayerNorm(width)

    def __call__(self, x: jax.Array, memory: jax.Array) -> jax.Array:
        x = self.norm1(x + self.self_attn(x, x))
        x = self.norm2(x + self.multihead_attn(x, memory))
        return self.norm3(x + self.linear2(jax.nn.relu(self.linear1(x))))


class Decoder(nnx.Module):
    """A stack of decoder layers and a final norm."""

    def __init__(self, width: int, heads: int, mlp_width: int, layers: int):
        self.layers = nnx.List([DecoderLayer(width, heads, mlp_width) for _ in range(layers)])
        self.norm = LayerNorm(width)

    def __call__(self, x: jax.Array, memory: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x, memory)
        return self.norm(x)
