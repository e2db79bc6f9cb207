"""Style denoiser (upstream's StyleTransformer1d and Transformer1d, 25.3M and 21.9M): which style fits these words?"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, Embedding, LayerNorm, Linear, zeros
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import AdaLayerNorm, length_mask


class FixedEmbedding(nnx.Module):
    """What stands in the words' place for guidance."""

    def __init__(self, positions: int, width: int):
        self.embedding = Embedding(positions, width)


class AttentionBase(nnx.Module):
    """The end of an attention: upstream nests it."""

    def __init__(self, middle: int, width: int):
        self.to_out = Linear(middle, width)


class Attention(nnx.Module):
    """Attention whose queries and whose keys and values are normed each by its own norm of the same h."""

    def __init__(self, config: StyleTTS2Config, width: int):
        middle = config.diffusion_heads * config.diffusion_head_features
        self.heads = config.diffusion_heads

        def norm():
            return AdaLayerNorm(2 * config.style_dim, width) if config.multispeaker else LayerNorm(width)

        self.norm, self.norm_context = norm(), norm()
        self.to_q = Linear(width, middle, bias=False)
        self.to_kv = Linear(width, 2 * middle, bias=False)
        self.attention = AttentionBase(middle, width)

    def __call__(self, x: jax.Array, features: jax.Array | None, mask: jax.Array) -> jax.Array:
        more = () if features is None else (features,)
        query = self.to_q(self.norm(x, *more))
        key, value = jnp.split(self.to_kv(self.norm_context(x, *more)), 2, axis=-1)
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1) for part in (query, key, value))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return self.attention.to_out(mixed.reshape(*x.shape[:2], -1))


def _exact_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


class Block(nnx.Module):
    """Attention, then a feed-forward without a norm before it."""

    def __init__(self, config: StyleTTS2Config, width: int):
        self.attention = Attention(config, width)
        inner = width * config.diffusion_multiplier
        self.feed_forward = nnx.Dict({"0": Linear(width, inner), "2": Linear(inner, width)})

    def __call__(self, x: jax.Array, features: jax.Array | None, mask: jax.Array) -> jax.Array:
        x = x + self.attention(x, features, mask)
        return x + self.feed_forward["2"](_exact_gelu(self.feed_forward["0"](x)))


class TimeEmbedding(nnx.Module):
    """Learned Fourier features of a number, the number itself before them."""

    def __init__(self, frequencies: int, width: int):
        self.weights = zeros(frequencies)
        self.linear = Linear(1 + 2 * frequencies, width)

    def __call__(self, time: jax.Array) -> jax.Array:
        angles = 2 * math.pi * time[:, None] * self.weights[...]
        return self.linear(jnp.concatenate([time[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1))


class Denoiser(nnx.Module):
    """The network that the sampler calls, with its preconditioning (Karras et al. 2022)."""

    def __init__(self, config: StyleTTS2Config):
        style, words = 2 * config.style_dim, config.plbert_hidden
        width = style + words
        self.sigma_data = config.sigma_data
        self.blocks = nnx.List([Block(config, width) for _ in range(config.diffusion_layers)])
        self.to_time = TimeEmbedding(config.style_dim, width)
        self.to_features = Linear(style, width) if config.multispeaker else nnx.data(None)
        self.to_mapping = nnx.Dict({"0": Linear(width, width), "2": Linear(width, width)})
        self.to_out = Conv(width, style, 1)
        self.fixed_embedding = FixedEmbedding(config.plbert_positions, words)

    def mapping(self, time: jax.Array, features: jax.Array | None) -> jax.Array:
        """Noise level's logarithm / 4 [B], reference style [B, 256] or None -> what is added before every block."""
        mapped = _exact_gelu(self.to_time(time))
        if self.to_features is not None:
            mapped = mapped + _exact_gelu(self.to_features(features))
        return _exact_gelu(self.to_mapping["2"](_exact_gelu(self.to_mapping["0"](mapped))))

    def network(
        self, x: jax.Array, time: jax.Array, words: jax.Array, features: jax.Array | None, lengths: jax.Array
    ) -> jax.Array:
        """Style x [B, 256], words [B, P, 768] of true `lengths` [B] -> [B, 256]. Padded words are neither read nor
        counted in the mean."""
        mapping = self.mapping(time, features)[:, None]
        kept = length_mask(lengths, words.shape[1])
        h = jnp.concatenate([jnp.broadcast_to(x[:, None], (*words.shape[:2], x.shape[-1])), words], axis=-1)
        for block in self.blocks:
            h = block(h + mapping, features, kept[:, None, None, :, 0])
        mean = jnp.sum(jnp.where(kept, h, 0), axis=1, keepdims=True) / lengths[:, None, None]
        return self.to_out(mean)[:, 0]

    def __call__(
        self,
        x: jax.Array,
        sigma: jax.Array,
        words: jax.Array,
        features: jax.Array | None,
        lengths: jax.Array,
        embedding_scale: float | jax.Array = 1.0,
    ) -> jax.Array:
        """Noisy style x [B, 256] at noise level `sigma` [] -> the style that is under it [B, 256].

        Args:
          embedding_scale: strength of guidance: away from what no words would give. 1 is none, and costs nothing if it
            is a Python number.
        """
        data = self.sigma_data
        total = jnp.square(sigma) + data**2
        time = jnp.broadcast_to(jnp.log(sigma) / 4, x.shape[:1])
        scaled = x * jax.lax.rsqrt(total)
        out = self.network(scaled, time, words, features, lengths)
        if not (isinstance(embedding_scale, int | float) and embedding_scale == 1):
            fixed = jnp.broadcast_to(self.fixed_embedding.embedding(jnp.arange(words.shape[1])), words.shape)
            unguided = self.network(scaled, time, fixed, features, lengths)
            out = unguided + (out - unguided) * embedding_scale
        return data**2 / total * x + sigma * data * jax.lax.rsqrt(total) * out
