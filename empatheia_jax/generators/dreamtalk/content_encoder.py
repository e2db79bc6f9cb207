"""Content encoder E_aud: wav2vec 2.0's rows -> what every frame hears, gold C_video (2.6M)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.transformer import Encoder, position_table
from empatheia_jax.generators.layers import Linear

ROWS_A_FRAME = 2  # rows at 50 Hz, frames at 25


def window_rows(rows: int, window: int, frames: int | None = None) -> np.ndarray:
    """Row behind every slot of every frame's window, int32 [frames, window]; -1 outside the recording.

    Without `frames`, as many as the rows cover: rows // 2.
    """
    frames = rows // ROWS_A_FRAME if frames is None else frames
    index = ROWS_A_FRAME * np.arange(frames)[:, None] + np.arange(window) - window // 2
    return np.where((index >= 0) & (index < rows), index, -1).astype(np.int32)


class ContentEncoder(nnx.Module):
    """A window of 11 rows a frame, each by itself through 3 layers."""

    def __init__(self, config: DreamTalkConfig):
        self.window = config.window
        self.increase_embed_dim = Linear(config.audio_dim, config.width)
        self.encoder = Encoder(config.width, config.heads, config.mlp_width, config.layers)

    def project(self, audio: jax.Array) -> jax.Array:
        """Audio rows [..., R, 1024] -> [..., R, 256]: the compact content, one row every 20 ms."""
        return self.increase_embed_dim(audio)

    def windows(self, projected: jax.Array, rows: jax.Array) -> jax.Array:
        """Projected rows [R, 256] and `window_rows` int [L, 11] -> content [L, 11, 256].

        Rows are projected once, not in each of the windows that see them; what lies outside is a row of zeros before
        the projection.
        """
        silent = self.increase_embed_dim.bias[...].astype(projected.dtype)
        x = jnp.where((rows >= 0)[..., None], projected[rows], silent)
        return self.encoder(x + position_table(self.window, x.shape[-1]).astype(x.dtype))

    def __call__(self, audio: jax.Array, rows: jax.Array) -> jax.Array:
        """Audio rows [R, 1024] and `window_rows` int [L, 11] -> content [L, 11, 256]."""
        return self.windows(self.project(audio), rows)
