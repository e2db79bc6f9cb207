"""Content encoder E_aud: wav2vec 2.0's features -> the audio content of every frame, gold C_video (2.6M parameters)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.transformer import Encoder, position_table
from empatheia_jax.generators.layers import Linear

FEATURES_PER_FRAME = 2  # features at 50 Hz, frames at 25


def audio_window_index(features: int, window: int, frames: int | None = None) -> np.ndarray:
    """Return the audio feature at every position of every frame's window: int32 [frames, window], -1 outside the audio.

    Args:
      features: number of audio features.
      window: features in a window.
      frames: number of frames; by default as many as the features cover, features // 2.
    """
    frames = features // FEATURES_PER_FRAME if frames is None else frames
    index = FEATURES_PER_FRAME * np.arange(frames)[:, None] + np.arange(window) - window // 2
    return np.where((index >= 0) & (index < features), index, -1).astype(np.int32)


class ContentEncoder(nnx.Module):
    """Three transformer layers over each frame's window of 11 audio features."""

    def __init__(self, config: DreamTalkConfig):
        self.window = config.window
        self.increase_embed_dim = Linear(config.audio_dim, config.width)
        self.encoder = Encoder(config.width, config.heads, config.mlp_width, config.layers)

    def project(self, audio: jax.Array) -> jax.Array:
        """Project audio features [..., R, 1024] to [..., R, 256]: the compact content, one vector per 20 ms."""
        return self.increase_embed_dim(audio)

    def windows(self, projected: jax.Array, index: jax.Array) -> jax.Array:
        """Encode windows of projected features.

        Each feature is projected once, not in each of the windows that see it; a feature outside the audio is the
        projection of zeros.

        Args:
          projected: projected audio features [R, 256].
          index: `audio_window_index`, int [L, 11].

        Returns:
          Content [L, 11, 256].
        """
        silence = self.increase_embed_dim.bias[...].astype(projected.dtype)
        x = jnp.where((index >= 0)[..., None], projected[index], silence)
        return self.encoder(x + position_table(self.window, x.shape[-1]).astype(x.dtype))

    def __call__(self, audio: jax.Array, index: jax.Array) -> jax.Array:
        """Return content [L, 11, 256] of audio features [R, 1024] and their `audio_window_index` int [L, 11]."""
        return self.windows(self.project(audio), index)
