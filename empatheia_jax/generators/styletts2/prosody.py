"""Prosody predictor: durations of phonemes, F0 and energy of frames (upstream's predictor, 16.2M parameters)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, Linear
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import AdainResBlk1d, AdaLayerNorm, BiLSTM, length_mask


class DurationEncoder(nnx.Module):
    """Alternating BiLSTMs and norms conditioned on the style, under upstream's name `lstms`."""

    def __init__(self, config: StyleTTS2Config):
        width, style = config.hidden_dim, config.style_dim
        self.lstms = nnx.List([])
        for _ in range(config.n_layer):
            self.lstms.append(BiLSTM(width + style, width))
            self.lstms.append(AdaLayerNorm(style, width))

    def __call__(self, x: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return d [B, P, 640], 0 on padding, of d_en x [B, P, 512] and the prosodic style [B, 128]."""
        mask = length_mask(lengths, x.shape[1])
        repeated_style = jnp.broadcast_to(style[:, None].astype(x.dtype), (*x.shape[:2], style.shape[-1]))
        x = jnp.where(mask, jnp.concatenate([x, repeated_style], axis=-1), 0)
        for lstm, norm in zip(self.lstms[::2], self.lstms[1::2], strict=True):
            x = norm(lstm(x, lengths), style)
            x = jnp.where(mask, jnp.concatenate([x, repeated_style], axis=-1), 0)
        return x


class DurationProjection(nnx.Module):
    """Linear map under upstream's names (its LinearNorm)."""

    def __init__(self, width_in: int, width_out: int):
        self.linear_layer = Linear(width_in, width_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_layer(x)


class ProsodyPredictor(nnx.Module):
    """Durations from text and style; F0 and energy from the text expanded to frames by the durations."""

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
        """Return logits [B, P, 50] of d [B, P, 640]; the sum of their sigmoids is a duration in frames of 25 ms."""
        return self.duration_proj(self.lstm(d, lengths))

    def F0Ntrain(self, en: jax.Array, style: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Predict F0 in Hz (possibly negative) and energy, each [B, 2L], 0 on padding; the name is upstream's.

        Args:
          en: the encoding d expanded to frames, [B, L, 640].
          style: prosodic style [B, 128].
          lengths: true frames of each utterance, int [B].
        """
        x, mask = self.shared(en, lengths), length_mask(lengths, en.shape[1])
        curves = []
        for blocks, project in ((self.F0, self.F0_proj), (self.N, self.N_proj)):
            y, y_mask = x, mask
            for block in blocks:
                y, y_mask = block(y, style, y_mask)
            curves.append(jnp.where(y_mask, project(y), 0)[..., 0])
        return curves[0], curves[1]


def expand_to_frames(x: jax.Array, phoneme_frames: jax.Array, frames: int) -> jax.Array:
    """Repeat each phoneme's vector for its frames (the length regulator).

    Args:
      x: [B, P, C].
      phoneme_frames: int [B, P].
      frames: length of the result.

    Returns:
      [B, frames, C], 0 on padding.
    """
    ends = jnp.cumsum(phoneme_frames, axis=1)
    index = jax.vmap(lambda ends: jnp.searchsorted(ends, jnp.arange(frames), side="right"))(ends)
    index = jnp.minimum(index, x.shape[1] - 1)[..., None]
    return jnp.where(length_mask(ends[:, -1], frames), jnp.take_along_axis(x, index, axis=1), 0)


def delay_one_frame(x: jax.Array) -> jax.Array:
    """Shift x [B, L, C] by one frame, repeating the first and losing the last, as upstream does before HiFi-GAN."""
    return jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
