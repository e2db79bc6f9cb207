"""Content synchronizer, CS (section 4.3, Fig. 4a, Eqs. 1-2): the content of speech and video.

Two VAE blocks read r^t, the LLM's states over the response. C_speech has one position a phoneme, C_video one a 25 fps
frame; the paper leaves lengths and queries open. A query is the sum of a modality vector, the code of its position and
the embedding of its phoneme; a frame's phoneme is the one active then, with the fraction of it that has elapsed.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.latents.vae import Latent, VaeBlock
from empatheia_jax.model.layers import FeedForward, Linear, sinusoid
from empatheia_jax.model.sharding import gather_weight, param


def active_phoneme(phoneme_frames: jax.Array, frames: int) -> tuple[jax.Array, jax.Array]:
    """Find the phoneme at the middle of each video frame.

    This is `generators.interfaces.phoneme_of_video_frame` for a batch.

    Args:
      phoneme_frames: int32 [K, P], units of 25 ms; 0 on padding.
      frames: F, static.

    Returns:
      Index int32 [K, F] into P, and the elapsed fraction float32 [K, F].
    """
    ends = 5 * jnp.cumsum(phoneme_frames, axis=-1)  # [K, P] whole numbers of 5 ms
    middle = (2 * jnp.arange(frames) + 1) * 4  # [F]
    index = jnp.sum(ends[:, None, :] <= middle[None, :, None], axis=-1)  # [K, F]
    last = phoneme_frames.shape[-1] - 1 - jnp.argmax((phoneme_frames > 0)[:, ::-1], axis=-1)
    index = jnp.minimum(index, last[:, None])
    length = 5 * jnp.take_along_axis(phoneme_frames, index, axis=-1)
    start = jnp.take_along_axis(ends, index, axis=-1) - length
    return index, jnp.clip((middle - start) / jnp.maximum(length, 1), 0.0, 0.999)


class ContentSynchronizer(nnx.Module):
    """r^t -> C_speech, C_video (Eqs. 1-2): an FFN and a VAE block each, nothing shared but the phoneme table."""

    def __init__(
        self, config: LatentConfig, llm_width: int, symbols: int, *, speech_dim: int, video_dim: int, rngs: nnx.Rngs
    ):
        """Draw the parameters.

        Args:
          config: sizes of the VAE blocks.
          llm_width: D of r^t.
          symbols: size of the phoneme table.
          speech_dim: content_dim of the speech generator.
          video_dim: content_dim of the face generator.
          rngs: to draw from.
        """
        self.config = config
        width = config.width
        self.ffn_speech = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.ffn_video = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.speech, self.video = VaeBlock(config, rngs=rngs), VaeBlock(config, rngs=rngs)
        self.modality = param(rngs.normal((2, width)) * 0.02, "unsharded", "latent")
        self.phoneme = param(rngs.normal((symbols, width)), "unsharded", "latent")
        self.fraction = Linear(8, width, "features", "latent", rngs=rngs)
        self.out_speech = Linear(width, speech_dim, "latent", "features", rngs=rngs)
        self.out_video = Linear(width, video_dim, "latent", "features", rngs=rngs)

    def _inputs(self, ffn: FeedForward, r_t: jax.Array) -> jax.Array:
        # r^t has its order only from RoPE inside the LLM; the code lets cross-attention find a word's position.
        return ffn(r_t) + sinusoid(jnp.arange(r_t.shape[1], dtype=jnp.float32), self.config.width)

    def speech_content(
        self, r_t: jax.Array, response_mask: jax.Array, phonemes: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Latent]:
        """Compute C_speech (Eqs. 1-2).

        Args:
          r_t: float32 [K, R, D].
          response_mask: bool [K, R].
          phonemes: int32 [K, P] symbol ids, -1 on padding.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          C_speech float32 [K, P, content_dim], and the latent, whose posterior is [K, R, D].
        """
        mask = phonemes >= 0
        position = jnp.broadcast_to(jnp.arange(phonemes.shape[1], dtype=jnp.float32), phonemes.shape)
        queries = self.modality[0] + sinusoid(position, self.config.width)
        if self.config.content_query == "phoneme":
            queries = queries + gather_weight(self.phoneme[...], "unsharded", "latent")[jnp.maximum(phonemes, 0)]
        latent = self.speech(self._inputs(self.ffn_speech, r_t), response_mask, queries, mask, key=key)
        return self.out_speech(latent.output), latent

    def video_content(
        self,
        r_t: jax.Array,
        response_mask: jax.Array,
        phonemes: jax.Array,
        phoneme_frames: jax.Array,
        *,
        video_frames: jax.Array,
        frames: int,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Latent]:
        """Compute C_video (Eqs. 1-2).

        Args:
          r_t: float32 [K, R, D].
          response_mask: bool [K, R].
          phonemes: int32 [K, P] symbol ids, -1 on padding.
          phoneme_frames: int32 [K, P], units of 25 ms, 0 on padding.
          video_frames: int32 [K], valid frames of 40 ms.
          frames: F, static.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          C_video float32 [K, F, content_dim], and the latent, whose posterior is [K, R, D].
        """
        mask = jnp.arange(frames) < video_frames[:, None]
        position = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.float32), mask.shape)
        queries = self.modality[1] + sinusoid(position, self.config.width)
        if self.config.content_query == "phoneme":
            index, fraction = active_phoneme(phoneme_frames, frames)  # [K, F]
            active = jnp.take_along_axis(jnp.maximum(phonemes, 0), index, axis=-1)
            elapsed = self.fraction(sinusoid(fraction * jnp.pi, 8, period=0.125))
            queries = queries + gather_weight(self.phoneme[...], "unsharded", "latent")[active] + elapsed
        latent = self.video(self._inputs(self.ffn_video, r_t), response_mask, queries, mask, key=key)
        return self.out_video(latent.output), latent
