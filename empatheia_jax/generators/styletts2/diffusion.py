"""Style diffusion (StyleTTS 2, section 3.2.2): a style is sampled for a text, from noise."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.layers import Conv, Embedding, LayerNorm, Linear, zero_param
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import AdaLayerNorm, length_mask

SIGMA_MAX, SIGMA_MIN, RHO = 3.0, 1e-4, 9.0  # noise levels of Karras et al. 2022 with upstream's values


# Denoiser -------------------------------------------------------------------------------------------------------------


class FixedEmbedding(nnx.Module):
    """Learned embedding that replaces the text in the unconditional pass of classifier-free guidance."""

    def __init__(self, positions: int, width: int):
        self.embedding = Embedding(positions, width)


class AttentionBase(nnx.Module):
    """Output projection of an attention, a module of its own as in upstream."""

    def __init__(self, middle: int, width: int):
        self.to_out = Linear(middle, width)


class Attention(nnx.Module):
    """Self-attention with one norm for the queries and another for the keys and values."""

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
        conditions = () if features is None else (features,)
        query = self.to_q(self.norm(x, *conditions))
        key, value = jnp.split(self.to_kv(self.norm_context(x, *conditions)), 2, axis=-1)
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1) for part in (query, key, value))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return self.attention.to_out(mixed.reshape(*x.shape[:2], -1))


def _exact_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


class Block(nnx.Module):
    """Attention, then a feed-forward network that has no norm before it."""

    def __init__(self, config: StyleTTS2Config, width: int):
        self.attention = Attention(config, width)
        inner = width * config.diffusion_multiplier
        self.feed_forward = nnx.Dict({"0": Linear(width, inner), "2": Linear(inner, width)})

    def __call__(self, x: jax.Array, features: jax.Array | None, mask: jax.Array) -> jax.Array:
        x = x + self.attention(x, features, mask)
        return x + self.feed_forward["2"](_exact_gelu(self.feed_forward["0"](x)))


class TimeEmbedding(nnx.Module):
    """Linear map of a number and its learned Fourier features."""

    def __init__(self, frequencies: int, width: int):
        self.weights = zero_param(frequencies)
        self.linear = Linear(1 + 2 * frequencies, width)

    def __call__(self, time: jax.Array) -> jax.Array:
        angles = 2 * math.pi * time[:, None] * self.weights[...]
        return self.linear(jnp.concatenate([time[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1))


class Denoiser(nnx.Module):
    """Transformer over the text that estimates a noiseless style, with the preconditioning of Karras et al. 2022.

    Upstream's StyleTransformer1d for many speakers (25.3M parameters), Transformer1d for one (21.9M).
    """

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
        """Return the vectors [B, 1024] that are added before every block.

        Args:
          time: a quarter of the logarithm of the noise level, [B].
          features: reference style [B, 256]; None in a model of one speaker.
        """
        mapped = _exact_gelu(self.to_time(time))
        if self.to_features is not None and features is not None:
            mapped = mapped + _exact_gelu(self.to_features(features))
        return _exact_gelu(self.to_mapping["2"](_exact_gelu(self.to_mapping["0"](mapped))))

    def network(
        self, x: jax.Array, time: jax.Array, words: jax.Array, features: jax.Array | None, *, lengths: jax.Array
    ) -> jax.Array:
        """Apply the transformer without preconditioning.

        Args:
          x: scaled noisy style [B, 256].
          time: as in `mapping`, [B].
          words: PL-BERT's h_bert [B, P, 768].
          features: as in `mapping`.
          lengths: true phonemes of each utterance, int [B]; padding is neither attended to nor averaged.

        Returns:
          [B, 256].
        """
        mapping = self.mapping(time, features)[:, None]
        mask = length_mask(lengths, words.shape[1])
        h = jnp.concatenate([jnp.broadcast_to(x[:, None], (*words.shape[:2], x.shape[-1])), words], axis=-1)
        for block in self.blocks:
            h = block(h + mapping, features, mask[:, None, None, :, 0])
        mean = jnp.sum(jnp.where(mask, h, 0), axis=1, keepdims=True) / lengths[:, None, None]
        return self.to_out(mean)[:, 0]

    def __call__(
        self,
        x: jax.Array,
        sigma: jax.Array,
        words: jax.Array,
        features: jax.Array | None,
        *,
        lengths: jax.Array,
        embedding_scale: float | jax.Array = 1.0,
    ) -> jax.Array:
        """Estimate the noiseless style [B, 256].

        Args:
          x: noisy style [B, 256].
          sigma: its noise level, [].
          words: PL-BERT's h_bert [B, P, 768].
          features: reference style [B, 256]; None in a model of one speaker.
          lengths: true phonemes of each utterance, int [B].
          embedding_scale: strength of classifier-free guidance by the text. 1 means no guidance; given as a Python
            number, it also saves the unconditional pass.
        """
        data = self.sigma_data
        total = jnp.square(sigma) + data**2
        time = jnp.broadcast_to(jnp.log(sigma) / 4, x.shape[:1])
        scaled = x * jax.lax.rsqrt(total)
        out = self.network(scaled, time, words, features, lengths=lengths)
        if not (isinstance(embedding_scale, int | float) and embedding_scale == 1):
            fixed = jnp.broadcast_to(self.fixed_embedding.embedding(jnp.arange(words.shape[1])), words.shape)
            unconditional = self.network(scaled, time, fixed, features, lengths=lengths)
            out = unconditional + (out - unconditional) * embedding_scale
        return data**2 / total * x + sigma * data * jax.lax.rsqrt(total) * out


# Sampler --------------------------------------------------------------------------------------------------------------


def noise_levels(steps: int) -> np.ndarray:
    """Return the decreasing noise levels, float64 [steps].

    Raises:
      ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"style diffusion needs at least 2 steps, not {steps}")
    top, bottom = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return (top + np.arange(steps) / (steps - 1) * (bottom - top)) ** RHO


def update_levels(steps: int) -> np.ndarray:
    """Return sigma and ADPM2's sigma_up, sigma_down and sigma_mid of each update, float64 [steps - 1, 4]."""
    levels = noise_levels(steps)
    sigma, following = levels[:-1], levels[1:]
    up = np.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
    down = np.sqrt(following**2 - up**2)
    return np.stack([sigma, up, down, (sigma + down) / 2], axis=1)


def sample(denoise: Callable, noise: jax.Array, step_noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw a style from noise by ADPM2.

    Args:
      denoise: (x [B, 256], sigma []) -> x without its noise; called twice per update.
      noise: normal [B, 256].
      step_noise: normal [steps - 1, B, 256].

    Returns:
      The style [B, 256], and x after every update [steps - 1, B, 256].
    """
    steps = step_noise.shape[0] + 1
    levels = jnp.asarray(update_levels(steps), jnp.float32)

    def update(x, per_step):
        (sigma, up, down, middle), new_noise = per_step
        slope = (x - denoise(x, sigma)) / sigma
        halfway = x + slope * (middle - sigma)
        slope = (halfway - denoise(halfway, middle)) / middle
        x = x + slope * (down - sigma) + up * new_noise
        return x, x

    return jax.lax.scan(update, noise * float(noise_levels(steps)[0]), (levels, step_noise))
