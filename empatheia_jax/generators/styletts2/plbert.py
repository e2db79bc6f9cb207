"""PL-BERT (Li et al. 2023): an ALBERT over phonemes that computes h_bert, 768 wide (6.3M parameters)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Embedding, LayerNorm, Linear
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import length_mask

EPSILON = 1e-12


class Attention(nnx.Module):
    """Self-attention, residual sum and norm."""

    def __init__(self, config: StyleTTS2Config):
        width = config.plbert_hidden
        self.heads = config.plbert_heads
        self.query, self.key, self.value, self.dense = (Linear(width, width) for _ in range(4))
        self.LayerNorm = LayerNorm(width, EPSILON)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], self.heads, -1)
        query, key, value = (part(x).reshape(heads) for part in (self.query, self.key, self.value))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return self.LayerNorm(x + self.dense(mixed.reshape(x.shape)))


class Layer(nnx.Module):
    """The layer that is applied `plbert_layers` times with the same weights (upstream's albert_layers.0)."""

    def __init__(self, config: StyleTTS2Config):
        self.attention = Attention(config)
        self.ffn = Linear(config.plbert_hidden, config.plbert_mlp)
        self.ffn_output = Linear(config.plbert_mlp, config.plbert_hidden)
        self.full_layer_layer_norm = LayerNorm(config.plbert_hidden, EPSILON)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.attention(x, mask)
        return self.full_layer_layer_norm(self.ffn_output(jax.nn.gelu(self.ffn(x), approximate=True)) + x)


class Embeddings(nnx.Module):
    """Sum of the symbol's, the position's and the first token type's embedding, normalised."""

    def __init__(self, config: StyleTTS2Config):
        width = config.plbert_embedding
        self.word_embeddings = Embedding(config.n_token, width)
        self.position_embeddings = Embedding(config.plbert_positions, width)
        self.token_type_embeddings = Embedding(2, width)
        self.LayerNorm = LayerNorm(width, EPSILON)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        positions = self.position_embeddings(jnp.arange(tokens.shape[1]))
        return self.LayerNorm(self.word_embeddings(tokens) + positions + self.token_type_embeddings(0))


class PLBert(nnx.Module):
    """transformers' AlbertModel without its pooler."""

    def __init__(self, config: StyleTTS2Config):
        self.layers = config.plbert_layers
        self.embeddings = Embeddings(config)
        self.embedding_hidden_mapping_in = Linear(config.plbert_embedding, config.plbert_hidden)
        self.layer = Layer(config)

    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the last hidden states [B, P, 768]; values on padding are arbitrary.

        Args:
          tokens: symbol ids int [B, P], P <= 512.
          lengths: true symbols of each text, int [B].
        """
        x = self.embedding_hidden_mapping_in(self.embeddings(tokens))
        mask = length_mask(lengths, tokens.shape[1])[:, None, None, :, 0]  # keys
        return jax.lax.fori_loop(0, self.layers, lambda _, x: self.layer(x, mask), x)
