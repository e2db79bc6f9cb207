"""Acoustic text encoder: phonemes -> h_text (upstream's TextEncoder, 5.6M parameters)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, Embedding, LayerNorm, leaky_relu
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import BiLSTM, length_mask


class TextEncoder(nnx.Module):
    """Embedding, `n_layer` convolutions of window 5 with layer norms, a BiLSTM."""

    def __init__(self, config: StyleTTS2Config):
        width = config.hidden_dim
        self.embedding = Embedding(config.n_token, width)
        self.cnn = nnx.List(
            [nnx.List([Conv(width, width, 5, padding=2), LayerNorm(width)]) for _ in range(config.n_layer)]
        )
        self.lstm = BiLSTM(width, width)

    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return h_text [B, P, 512], 0 on padding, of symbol ids int [B, P] with true symbols `lengths` [B]."""
        mask = length_mask(lengths, tokens.shape[1])
        x = jnp.where(mask, self.embedding(tokens), 0)
        for convolution, norm in self.cnn:
            x = jnp.where(mask, leaky_relu(norm(convolution(x))), 0)
        return self.lstm(x, lengths)
