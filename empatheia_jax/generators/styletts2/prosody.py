"""Prosody predictor: how long each phoneme lasts, F0 and energy of every frame (upstream's predictor, 16.2M)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, Linear
from empatheia_jax.generators.styletts2.adain import AdainResBlk1d
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import AdaLayerNorm, BiLSTM, length_mask


class DurationEncoder(nnx.Module):
    """BiLSTMs and style-steered norms in turn (upstream's lstms: even ones LSTM, odd ones norm)."""

    def __init__(self, config: StyleTTS2Config):
        width, style = config.hidden_dim, config.style_dim
        self.lstms = nnx.List([])
        for _ in range(config.n_layer):
            self.lstms.append(BiLSTM(width + style, width))
            self.lstms.append(AdaLayerNorm(style, width))

    def __call__(self, x: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """d_en [B, P, 512], prosodic style [B, 128] -> d [B, P, 640], 0 on padding."""
        mask = length_mask(lengths, x.shape[1])
        beside = jnp.broadcast_to(style[:, None].astype(x.dtype), (*x.shape[:2], style.shape[-1]))
        x = jnp.where(mask, jnp.concatenate([x, beside], axis=-1), 0)
        for lstm, norm in zip(self.lstms[::2], self.lstms[1::2], strict=True):
            x = norm(lstm(x, lengths), style)
            x = jnp.where(mask, jnp.concatenate([x, beside], axis=-1), 0)
        return x


class DurationProjection(nnx.Module):
    """upstream's LinearNorm."""

    def __init__(self, width: int, most: int):
        self.linear_layer = Linear(width, most)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_layer(x)


class ProsodyPredictor(nnx.Module):
    """Durations from text and style; F0 and energy from what the durations stretch to frames."""

    def __init__(self, config: StyleTTS2Config):
        width, style = config.hidden_dim, config.style_dim
        self.text_encoder = DurationEncoder(config)
        self.lstm = BiLSTM(width + style, width)
        self.duration_proj = DurationProjection(width, config.max_dur)
        self.shared = BiLSTM(width + style, width)
        self.F0, self.N = (
            nnx.List(
                [
                    AdainResBlk1d(width, width, style),
                    AdainResBlk1d(width, width // 2, style, upsample=True),
                    AdainResBlk1d(width // 2, width // 2, style),
                ]
            )
            for _ in range(2)
        )
        self.F0_proj, self.N_proj = (Conv(width // 2, 1, 1) for _ in range(2))

    def duration_logits(self, d: jax.Array, lengths: jax.Array) -> jax.Array:
        """d [B, P, 640] -> logits [B, P, 50]; a duration is the sum of their sigmoids, in frames of 25 ms."""
        return self.duration_proj(self.lstm(d, lengths))

    def F0Ntrain(self, en: jax.Array, style: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Frames [B, L, 640] of true `lengths` [B] -> F0 in Hz (it may be negative) and energy, each [B, 2L]; 0 behind.

        The name is upstream's.
        """
        x, mask = self.shared(en, lengths), length_mask(lengths, en.shape[1])
        curves = []
        for blocks, project in ((self.F0, self.F0_proj), (self.N, self.N_proj)):
            y, kept = x, mask
            for block in blocks:
                y, kept = block(y, style, kept)
            curves.append(jnp.where(kept, project(y), 0)[..., 0])
        return curves[0], curves[1]


def frames_of(logits: jax.Array) -> jax.Array:
    """Whole frames a phoneme int32 [B, P]: the rounded duration (half to even), at least 1."""
    duration = jnp.sum(jax.nn.sigmoid(logits.astype(jnp.float32)), axis=-1)
    return jnp.maximum(jnp.round(duration), 1).astype(jnp.int32)


def stretch(x: jax.Array, phoneme_frames: jax.Array, frames: int) -> jax.Array:
    """Repeat row p of x [B, P, C] `phoneme_frames[p]` times -> [B, frames, C]; 0 behind a row's last frame."""
    ends = jnp.cumsum(phoneme_frames, axis=1)
    index = jax.vmap(lambda ends: jnp.searchsorted(ends, jnp.arange(frames), side="right"))(ends)
    index = jnp.minimum(index, x.shape[1] - 1)[..., None]
    return jnp.where(length_mask(ends[:, -1], frames), jnp.take_along_axis(x, index, axis=1), 0)


def delayed(x: jax.Array) -> jax.Array:
    """One frame later, the first frame twice and the last lost: as upstream does before HiFi-GAN."""
    return jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
