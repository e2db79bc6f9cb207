"""All networks of a StyleTTS 2 under upstream's names: a parameter's path is its name in the published file."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import Decoder
from empatheia_jax.generators.styletts2.denoiser import Denoiser
from empatheia_jax.generators.styletts2.layers import Linear
from empatheia_jax.generators.styletts2.plbert import PLBert
from empatheia_jax.generators.styletts2.prosody import ProsodyPredictor
from empatheia_jax.generators.styletts2.style_encoder import StyleEncoder
from empatheia_jax.generators.styletts2.text_encoder import TextEncoder


class StyleTTS2(nnx.Module):
    """The eight of the thirteen published networks that speak; what only trains is not here."""

    def __init__(self, config: StyleTTS2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.bert = PLBert(config, rngs=rngs)
        self.bert_encoder = Linear(config.plbert_hidden, config.hidden_dim, rngs=rngs)
        self.predictor = ProsodyPredictor(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.text_encoder = TextEncoder(config, rngs=rngs)
        self.predictor_encoder = StyleEncoder(config, rngs=rngs)
        self.style_encoder = StyleEncoder(config, rngs=rngs)
        self.diffusion = Denoiser(config, rngs=rngs)

    def style(self, mel: jax.Array) -> jax.Array:
        """Log-mel [B, T, 80] of recordings -> style [B, 256]: acoustic 128, prosodic 128."""
        return jnp.concatenate([self.style_encoder(mel), self.predictor_encoder(mel)], axis=-1)
