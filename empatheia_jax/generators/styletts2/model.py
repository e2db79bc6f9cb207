"""All networks of a StyleTTS 2 under upstream's names: a parameter's path is its name in the published file."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Linear
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import Decoder
from empatheia_jax.generators.styletts2.denoiser import Denoiser
from empatheia_jax.generators.styletts2.layers import length_mask
from empatheia_jax.generators.styletts2.plbert import PLBert
from empatheia_jax.generators.styletts2.prosody import ProsodyPredictor, delayed, stretch
from empatheia_jax.generators.styletts2.style_encoder import StyleEncoder
from empatheia_jax.generators.styletts2.text_encoder import TextEncoder


class StyleTTS2(nnx.Module):
    """The eight of the thirteen published networks that speak; what only trains is not here."""

    def __init__(self, config: StyleTTS2Config, *, rngs: nnx.Rngs | None = None):
        """`rngs` is not used: frozen weights are loaded (see `layers`)."""
        self.config = config
        self.bert = PLBert(config)
        self.bert_encoder = Linear(config.plbert_hidden, config.hidden_dim)
        self.predictor = ProsodyPredictor(config)
        self.decoder = Decoder(config)
        self.text_encoder = TextEncoder(config)
        self.predictor_encoder = StyleEncoder(config)
        self.style_encoder = StyleEncoder(config)
        self.diffusion = Denoiser(config)

    def style(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """Log-mel [B, T, 80] of recordings of true `lengths` [B] -> style [B, 256]: acoustic 128, prosodic 128."""
        return jnp.concatenate([self.style_encoder(mel, lengths), self.predictor_encoder(mel, lengths)], axis=-1)

    def read(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Symbol ids int [B, P] of true `lengths` [B] -> content [B, P, 1280]: h_text, then h_bert unprojected; 0 on
        padding."""
        both = jnp.concatenate([self.text_encoder(tokens, lengths), self.bert(tokens, lengths)], axis=-1)
        return jnp.where(length_mask(lengths, tokens.shape[1]), both, 0)

    def durations(self, content: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """Content [B, P, 1280] and style [B, 256] -> frames of 25 ms a phoneme, not yet whole, float32 [B, P]."""
        logits = self.predictor.duration_logits(self._prosodic(content, style, lengths), lengths)
        return jnp.sum(jax.nn.sigmoid(logits.astype(jnp.float32)), axis=-1)

    def speak(
        self, content: jax.Array, style: jax.Array, phoneme_frames: jax.Array, noise: jax.Array, lengths: jax.Array
    ) -> jax.Array:
        """Content [B, P, 1280], style [B, 256], whole frames a phoneme int [B, P] (0 on padding) and normal noise
        [B, 600 L, 9], L >= every row's frames -> waveform [B, 600 L] at 24 kHz, 0 behind a row's end."""
        frames, size = jnp.sum(phoneme_frames, axis=1), noise.shape[1] // 600
        text = content[..., : self.config.hidden_dim]
        asr, en = (stretch(x, phoneme_frames, size) for x in (text, self._prosodic(content, style, lengths)))
        if self.config.decoder_type == "hifigan":
            mask = length_mask(frames, size)
            asr, en = (jnp.where(mask, delayed(x), 0) for x in (asr, en))
        acoustic, prosodic = jnp.split(style, 2, axis=-1)
        f0, energy = self.predictor.F0Ntrain(en, prosodic, frames)
        return self.decoder(asr, f0, energy, acoustic, noise, frames)

    def _prosodic(self, content: jax.Array, style: jax.Array, lengths: jax.Array) -> jax.Array:
        """What durations, F0 and energy are read from, [B, P, 640]."""
        projected = self.bert_encoder(content[..., self.config.hidden_dim :])
        return self.predictor.text_encoder(projected, jnp.split(style, 2, axis=-1)[1], lengths)
