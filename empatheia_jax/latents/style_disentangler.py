"""Style disentangler, SD (section 4.3, Fig. 4b, Eqs. 3-7): the style of speech and video.

r^s and r^v each pass an FFN of their own into a shared emotion block and a shared profile block with queries of their
own (Fig. 4b; the paper's Eqs. 3-6 print r^s for both). S = style layer(E (+) P). Fused E and P are classified.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.data import emotions
from empatheia_jax.latents.vae import VaeBlock
from empatheia_jax.latents.whitening import Whitening
from empatheia_jax.model.initial_values import NormalSource
from empatheia_jax.model.layers import FeedForward, Linear
from empatheia_jax.model.shapes import Array, Float, PRNGKeyArray
from empatheia_jax.model.sharding import param


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Style:
    """The disentangler's output, float32: styles, and the labels of emotion and profile."""

    speech: Float[Array, "K Ss"]  # S_speech
    video: Float[Array, "K Sv"]  # S_video
    emotion: Float[Array, "K D"]  # fused E
    profile: Float[Array, "K D"]  # fused P
    logits: dict[str, Float[Array, "K _"]]  # "emotion" [K, 7], "age" [K, 4], "gender" [K, 2], "timbre" [K, 3]
    kl: Float[Array, "K 4 N"]  # (emotion, profile) x (speech, video), by signal token


class StyleDisentangler(nnx.Module):
    """r^s, r^v -> S_speech, S_video, and the labels of emotion, age, gender, timbre."""

    def __init__(self, config: LatentConfig, llm_width: int, speech_dim: int, video_dim: int, *, rngs: NormalSource):
        """Draw the parameters.

        Args:
          config: sizes of the VAE blocks.
          llm_width: D of r^s and r^v.
          speech_dim: style_dim of the speech generator.
          video_dim: style_dim of the face generator.
          rngs: to draw from.
        """
        self.config = config
        width = config.width
        self.whitening = Whitening(llm_width) if config.whiten else nnx.data(None)
        self.ffn_speech = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.ffn_video = FeedForward(llm_width, config.mlp_width, width, rngs=rngs, input_axis="embed")
        self.emotion, self.profile = VaeBlock(config, rngs=rngs), VaeBlock(config, rngs=rngs)
        # q_e^s, q_e^v, q_p^s, q_p^v
        self.queries = param(rngs.normal((4, 1, width)) * 0.02, "unsharded", "unsharded", "latent")
        self.style_speech = Linear(2 * width, speech_dim, "latent_mlp", "features", rngs=rngs)
        self.style_video = Linear(2 * width, video_dim, "latent_mlp", "features", rngs=rngs)
        self.fuse_emotion = Linear(2 * width, width, "latent_mlp", "latent", rngs=rngs)
        self.fuse_profile = Linear(2 * width, width, "latent_mlp", "latent", rngs=rngs)
        self.classify_emotion = Linear(width, len(emotions.AVATAR_EMOTIONS), "latent", "features", rngs=rngs)
        self.classify_age = Linear(width, len(emotions.AGES), "latent", "features", rngs=rngs)
        self.classify_gender = Linear(width, len(emotions.GENDERS), "latent", "features", rngs=rngs)
        self.classify_timbre = Linear(width, len(emotions.TIMBRES), "latent", "features", rngs=rngs)

    def __call__(
        self, r_s: Float[Array, "K 16 D"], r_v: Float[Array, "K 16 D"], key: PRNGKeyArray | None = None
    ) -> Style:
        """Disentangle emotion and profile (Eqs. 3-7).

        Args:
          r_s: states at <AUD1..16>.
          r_v: states at <VID1..16>.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          Styles and logits; classes in the order of `data.emotions`.
        """
        if self.config.sd_input == "speech_only":
            r_v = r_s  # Eqs. 3-6 to the letter
        if self.whitening is not None:
            r_s, r_v = self.whitening(r_s, r_v)
        count, tokens, _ = r_s.shape
        # Both modalities pass the shared blocks in one call; an Example's two are beside each other, so that they stay
        # on its device: [2K, 16, width].
        inputs = jnp.stack([self.ffn_speech(r_s), self.ffn_video(r_v)], axis=1)
        inputs = inputs.reshape(2 * count, tokens, self.config.width)
        mask = jnp.ones((2 * count, tokens), bool)
        keys = (None, None) if key is None else jax.random.split(key)

        def apply_block(block, queries, key):  # queries [2, 1, D]
            repeated = jnp.tile(queries, (count, 1, 1))  # [2K, 1, D]
            latent = block(inputs, mask, repeated, mask[:, :1], key=key)
            output = latent.output.reshape(count, 2, self.config.width)
            return output[:, 0], output[:, 1], latent.kl().reshape(count, 2, tokens)  # [K, D] twice, [K, 2, 16]

        emotion_speech, emotion_video, kl_emotion = apply_block(self.emotion, self.queries[:2], keys[0])
        profile_speech, profile_video, kl_profile = apply_block(self.profile, self.queries[2:], keys[1])
        emotion = jax.nn.gelu(self.fuse_emotion(jnp.concatenate([emotion_speech, emotion_video], -1)))
        profile = jax.nn.gelu(self.fuse_profile(jnp.concatenate([profile_speech, profile_video], -1)))
        return Style(
            speech=self.style_speech(jnp.concatenate([emotion_speech, profile_speech], -1)),  # Eq. 7
            video=self.style_video(jnp.concatenate([emotion_video, profile_video], -1)),
            emotion=emotion,
            profile=profile,
            logits={
                "emotion": self.classify_emotion(emotion),
                "age": self.classify_age(profile),
                "gender": self.classify_gender(profile),
                "timbre": self.classify_timbre(profile),
            },
            kl=jnp.concatenate([kl_emotion, kl_profile], axis=1),
        )
