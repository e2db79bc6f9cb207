"""Content synchronizer, CS (section 4.3, Fig. 4a, Eqs. 1-2): the content of speech and video.

Two VAE blocks read r^t, the LLM's states over the response. C_speech has one position a phoneme, C_video one a 25 fps
frame; the paper leaves lengths and queries open. A query is the sum of a modality vector, the code of its position and
the embedding of its phoneme; a frame's phoneme is the one active then, with the fraction of it that has elapsed.
"""

import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.latents.vae import Latent, VaeBlock
from empatheia_jax.model.initial_values import NormalSource
from empatheia_jax.model.layers import FeedForward, Linear, sinusoid
from empatheia_jax.model.shapes import Array, Bool, Float, Int, PRNGKeyArray
from empatheia_jax.model.sharding import gather_weight, param


def active_phoneme(
    phoneme_frames: Int[Array, "K P"], frames: int
) -> tuple[Int[Array, "K {frames}"], Float[Array, "K {frames}"]]:
    """Find the phoneme at the middle of each video frame.

    This is `generators.interfaces.phoneme_of_video_frame` for a batch.

    Args:
      phoneme_frames: durations in units of 25 ms; 0 on padding.
      frames: F, static.

    Returns:
      Index into P, and the elapsed fraction of that phoneme.
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
        self, config: LatentConfig, llm_width: int, symbols: int, *, speech_dim: int, video_dim: int, rngs: NormalSource
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

    def _inputs(self, ffn: FeedForward, r_t: Float[Array, "K R D"]) -> Float[Array, "K R width"]:
        # r^t has its order only from RoPE inside the LLM; the code lets cross-attention find a word's position.
        return ffn(r_t) + sinusoid(jnp.arange(r_t.shape[1], dtype=jnp.float32), self.config.width)

    def speech_content(
        self,
        r_t: Float[Array, "K R D"],
        response_mask: Bool[Array, "K R"],
        phonemes: Int[Array, "K P"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "K P Cs"], Latent]:
        """Compute C_speech (Eqs. 1-2).

        Args:
          r_t: the LLM's states over the response.
          response_mask: where there are any.
          phonemes: symbol ids, -1 on padding.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          C_speech, and the latent, whose posterior has one entry a response token.
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
        r_t: Float[Array, "K R D"],
        response_mask: Bool[Array, "K R"],
        phonemes: Int[Array, "K P"],
        phoneme_frames: Int[Array, "K P"],
        *,
        video_frames: Int[Array, " K"],
        frames: int,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "K {frames} Cv"], Latent]:
        """Compute C_video (Eqs. 1-2).

        Args:
          r_t: the LLM's states over the response.
          response_mask: where there are any.
          phonemes: symbol ids, -1 on padding.
          phoneme_frames: durations in units of 25 ms, 0 on padding.
          video_frames: valid frames of 40 ms.
          frames: F, static.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          C_video, and the latent, whose posterior has one entry a response token.
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
