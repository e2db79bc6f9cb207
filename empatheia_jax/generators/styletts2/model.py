"""All networks of StyleTTS 2 under upstream's names: a parameter's path is its name in the published file."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Linear
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import Decoder
from empatheia_jax.generators.styletts2.diffusion import Denoiser
from empatheia_jax.generators.styletts2.layers import length_mask
from empatheia_jax.generators.styletts2.manner import shape_f0
from empatheia_jax.generators.styletts2.prosody import ProsodyPredictor, delay_one_frame, expand_to_frames
from empatheia_jax.generators.styletts2.style import StyleEncoder
from empatheia_jax.generators.styletts2.text import PLBert, TextEncoder


class StyleTTS2(nnx.Module):
    """The published networks that synthesis needs: eight, or five without those that make styles (Kokoro).

    Those that are only used in training are left out.
    """

    def __init__(self, config: StyleTTS2Config, *, rngs: nnx.Rngs | None = None):
        """Build the networks; `rngs` is not used, since frozen weights are loaded (see `generators.layers`)."""
        self.config = config
        self.bert = PLBert(config)
        self.bert_encoder = Linear(config.plbert_hidden, config.hidden_dim)
        self.predictor = ProsodyPredictor(config)
        self.decoder = Decoder(config)
        self.text_encoder = TextEncoder(config)
        if config.style_networks:
            self.predictor_encoder = StyleEncoder(config)
            self.style_encoder = StyleEncoder(config)
            self.diffusion = Denoiser(config)

    def style(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the style [B, 256], acoustic then prosodic, of log-mels [B, T, 80] with true frames `lengths` [B]."""
        return jnp.concatenate([self.style_encoder(mel, lengths), self.predictor_encoder(mel, lengths)], axis=-1)

    def encode_text(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return content [B, P, 1280]: h_text, then h_bert before its projection; 0 on padding.

        Args:
          tokens: symbol ids int [B, P].
          lengths: true symbols of each text, int [B].
        """
        content = jnp.concatenate([self.text_encoder(tokens, lengths), self.bert(tokens, lengths)], axis=-1)
        return jnp.where(length_mask(lengths, tokens.shape[1]), content, 0)

    def durations(self, content: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """Predict each phoneme's duration in frames of 25 ms, not rounded: float32 [B, P].

        Args:
          content: [B, P, 1280].
          style: [B, 256].
          lengths: true phonemes of each utterance, int [B].
        """
        logits = self.predictor.duration_logits(self._prosodic(content, style, lengths), lengths)
        return jnp.sum(jax.nn.sigmoid(logits.astype(jnp.float32)), axis=-1)

    def speak(
        self,
        content: jax.Array,
        style: jax.Array,
        phoneme_frames: jax.Array,
        noise: jax.Array,
        *,
        lengths: jax.Array,
        manner: jax.Array | None = None,
    ) -> jax.Array:
        """Synthesize waveforms [B, 600 L] at 24 kHz, 0 on padding.

        Args:
          content: [B, P, 1280].
          style: [B, 256].
          phoneme_frames: int [B, P] units of 25 ms, 0 on padding.
          noise: normal [B, 600 L, 9]; L is at least the frames of each utterance.
          lengths: true phonemes of each utterance, int [B].
          manner: [B, 4], how to change the predicted F0 (`manner.shape_f0`); None: not at all.
        """
        frames, size = jnp.sum(phoneme_frames, axis=1), noise.shape[1] // SAMPLES_PER_FRAME
        text = content[..., : self.config.hidden_dim]
        asr, en = (expand_to_frames(x, phoneme_frames, size) for x in (text, self._prosodic(content, style, lengths)))
        if self.config.decoder_type == "hifigan":
            mask = length_mask(frames, size)
            asr, en = (jnp.where(mask, delay_one_frame(x), 0) for x in (asr, en))
        acoustic, prosodic = jnp.split(style, 2, axis=-1)
        f0, energy = self.predictor.F0Ntrain(en, prosodic, frames)
        if manner is not None:
            f0 = shape_f0(f0, manner)
        return self.decoder(asr, f0, energy, acoustic, noise=noise, lengths=frames)

    def _prosodic(self, content: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the encoding [B, P, 640] from which durations, F0 and energy are predicted."""
        projected = self.bert_encoder(content[..., self.config.hidden_dim :])
        return self.predictor.text_encoder(projected, jnp.split(style, 2, axis=-1)[1], lengths)
