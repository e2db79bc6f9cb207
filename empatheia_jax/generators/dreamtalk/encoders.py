"""The encoders of the denoising network: of audio content (E_aud, gold C_video) and of style (E_sty, gold S_video)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.transformer import Encoder, position_table
from empatheia_jax.generators.layers import Linear

FEATURES_PER_FRAME = 2  # features at 50 Hz, frames at 25


# Content --------------------------------------------------------------------------------------------------------------


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
    """E_aud, from wav2vec 2.0's features to the audio content of every frame (2.6M parameters).

    Three transformer layers over each frame's window of 11 audio features.
    """

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


# Style ----------------------------------------------------------------------------------------------------------------


def mish(x: jax.Array) -> jax.Array:
    """Return x tanh(softplus(x)), the mish activation."""
    return x * jnp.tanh(jax.nn.softplus(x))


class SelfAttentionPooling(nnx.Module):
    """Weighted mean over time, with weights computed from the values."""

    def __init__(self, width: int):
        self.W = nnx.Dict({"0": Linear(width, width), "2": Linear(width, 1)})

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return the mean [B, C] of x [B, T, C] over the times where `mask` bool [B, T] is true."""
        logits = self.W["2"](mish(self.W["0"](x)))[..., 0]
        weights = jax.nn.softmax(logits - jnp.where(mask, 0.0, 1e5), axis=-1)
        return jnp.einsum("bt,btc->bc", weights, x)


class StyleEncoder(nnx.Module):
    """E_sty, from expression coefficients of a clip to one style code (2.5M parameters).

    Three transformer layers over the clip, and pooling.
    """

    def __init__(self, config: DreamTalkConfig):
        self.frames, self.dim = config.style_frames, config.expression_dim
        self.increase_embed_dim = Linear(config.expression_dim, config.width)
        self.encoder = Encoder(config.width, config.heads, config.mlp_width, config.layers)
        self.aggregate_method = SelfAttentionPooling(config.width)

    def __call__(self, clip: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return style codes [B, 256] of zero-padded clips [B, 256, 64] with true frames `lengths` [B]."""
        x = self.increase_embed_dim(clip)
        mask = jnp.arange(clip.shape[1])[None] < lengths[:, None]
        x = self.encoder(x + position_table(clip.shape[1], x.shape[-1]).astype(x.dtype), mask)
        return self.aggregate_method(x, mask)

    def null(self) -> jax.Array:
        """Return the code of no style [1, 256]: that of a full clip of zeros."""
        return self(jnp.zeros((1, self.frames, self.dim)), jnp.array([self.frames]))
