"""Content synchronizer, CS (section 4.3, Fig. 4a, Eqs. 1-2): what voice and mouth must say.

Two hourglasses read r^t, the LLM's states over the response. C_speech has one position a phoneme, C_video one a 25 fps
frame; the paper leaves lengths and queries open. A query = modality vector + code of its position + embedding of its
phoneme; a frame's phoneme is the one active then, with the fraction of it that has elapsed.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.latents.vae import Hourglass, Latent
from empatheia_jax.layers import FeedForward, Linear, sinusoid
from empatheia_jax.sharding import gathered, param


def active_phoneme(phoneme_frames: jax.Array, frames: int) -> tuple[jax.Array, jax.Array]:
    """The phoneme at the middle of each video frame: `generators.interfaces.phoneme_of_video_frame`, batched.

    Args:
      phoneme_frames: int32 [K, P], units of 25 ms; 0 on padding.
      frames: F.
    Returns:
      index int32 [K, F] into P and the elapsed fraction float32 [K, F].
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
    """r^t -> C_speech, C_video (Eqs. 1-2): an FFN and an hourglass each, nothing shared but the phoneme table."""

    def __init__(
        self, config: LatentConfig, llm_width: int, symbols: int, speech_dim: int, video_dim: int, *, rngs: nnx.Rngs
    ):
        """Args:
        llm_width: D of r^t. symbols: size of the phoneme table. speech_dim, video_dim: the generators' content_dim.
        """
        self.config = config
        width = config.width
        self.ffn_speech = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.ffn_video = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.speech, self.video = Hourglass(config, rngs=rngs), Hourglass(config, rngs=rngs)
        self.modality = param(rngs.normal((2, width)) * 0.02, "rows", "latent")
        self.phoneme = param(rngs.normal((symbols, width)), "rows", "latent")
        self.fraction = Linear(8, width, "features", "latent", rngs=rngs)
        self.out_speech = Linear(width, speech_dim, "latent", "features", rngs=rngs)
        self.out_video = Linear(width, video_dim, "latent", "features", rngs=rngs)

    def _inputs(self, ffn, r_t):
        # r^t carries its order only through RoPE inside the LLM; the code lets cross-attention find a word's place.
        return ffn(r_t) + sinusoid(jnp.arange(r_t.shape[1], dtype=jnp.float32), self.config.width)

    def speech_content(self, r_t, response_mask, phonemes, key=None) -> tuple[jax.Array, Latent]:
        """Eqs. 1-2 for speech.

        Args:
          r_t: float32 [K, R, D]; response_mask: bool [K, R].
          phonemes: int32 [K, P] symbol ids, -1 on padding.
          key: samples z and turns dropout on; None takes the mean.
        Returns:
          C_speech float32 [K, P, content_dim] and the latent, whose posterior is [K, R, D].
        """
        mask = phonemes >= 0
        position = jnp.broadcast_to(jnp.arange(phonemes.shape[1], dtype=jnp.float32), phonemes.shape)
        queries = self.modality[0] + sinusoid(position, self.config.width)
        if self.config.content_query == "phoneme":
            queries = queries + gathered(self.phoneme[...], "rows", "latent")[jnp.maximum(phonemes, 0)]
        latent = self.speech(self._inputs(self.ffn_speech, r_t), response_mask, queries, mask, key)
        return self.out_speech(latent.output), latent

    def video_content(
        self, r_t, response_mask, phonemes, phoneme_frames, video_frames, frames: int, key=None
    ) -> tuple[jax.Array, Latent]:
        """Eqs. 1-2 for video.

        Args:
          r_t, response_mask, key: as in `speech_content`.
          phonemes: int32 [K, P] symbol ids, -1 on padding. phoneme_frames: int32 [K, P], units of 25 ms, 0 on padding.
          video_frames: int32 [K], valid frames of 40 ms. frames: F, static.
        Returns:
          C_video float32 [K, F, content_dim] and the latent, whose posterior is [K, R, D].
        """
        mask = jnp.arange(frames) < video_frames[:, None]
        position = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.float32), mask.shape)
        queries = self.modality[1] + sinusoid(position, self.config.width)
        if self.config.content_query == "phoneme":
            index, fraction = active_phoneme(phoneme_frames, frames)  # [K, F]
            active = jnp.take_along_axis(jnp.maximum(phonemes, 0), index, axis=-1)
            elapsed = self.fraction(sinusoid(fraction * jnp.pi, 8, period=0.125))
            queries = queries + gathered(self.phoneme[...], "rows", "latent")[active] + elapsed
        latent = self.video(self._inputs(self.ffn_video, r_t), response_mask, queries, mask, key)
        return self.out_video(latent.output), latent
