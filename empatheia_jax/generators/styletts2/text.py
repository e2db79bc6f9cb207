"""Text: its sentences as phoneme symbols, and the two encoders of these, h_text and h_bert."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators import phonemes as symbols
from empatheia_jax.generators.layers import Conv, Embedding, LayerNorm, Linear, leaky_relu
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import BiLSTM, length_mask

PLBERT_EPSILON = 1e-12  # of its layer norms


# Text -> symbols ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PhonemizedText:
    """The phonemes of a text by sentence, and what was dropped from it."""

    sentences: tuple[np.ndarray, ...]  # symbol ids int32 [P], the leading 0 included, P <= 512
    dropped_symbols: dict[str, int]  # IPA symbols that the published table lacks, and how often they were dropped
    dropped_parts: tuple[str, ...]  # parts of the text without anything to pronounce, or in another script

    @property
    def notes(self) -> list[str]:
        """What was dropped, one line for each kind; empty when everything is spoken."""
        lines = []
        if self.dropped_parts:
            lines.append(f"not spoken: {'; '.join(repr(part[:60]) for part in self.dropped_parts)}")
        if self.dropped_symbols:
            listed = ", ".join(f"{symbol!r} x {count}" for symbol, count in self.dropped_symbols.items())
            lines.append(f"phoneme symbols that the voice does not know were left out: {listed}")
        return lines


def phonemize_text(text: str, max_symbols: int = symbols.MAX_PHONEMES) -> PhonemizedText:
    """Split a text at sentences; one that is too long for the network is split at words, a word at symbols.

    Args:
      text: of any length.
      max_symbols: most symbols of a sentence, the leading 0 included.

    Raises:
      PhonemeError: nothing to pronounce.
    """
    sentences, dropped_symbols, dropped_parts = [], Counter(), []
    parts = symbols.split_sentences(text)
    for part in parts:
        try:
            ipa = symbols.phonemize(part)
        except symbols.PhonemeError:
            if len(parts) == 1:
                raise
            dropped_parts.append(part)  # a dash, an emoji, a Chinese sentence between others
            continue
        unknown = symbols.unknown_symbols(ipa)
        dropped_symbols.update({symbol: ipa.count(symbol) for symbol in unknown})
        known = "".join(symbol for symbol in ipa if symbol not in unknown)
        sentences += [symbols.encode(line) for line in _wrap(known, max_symbols - 1)]
    if not sentences:
        raise symbols.PhonemeError("nothing to pronounce: give a text with words")
    return PhonemizedText(tuple(sentences), dict(dropped_symbols), tuple(dropped_parts))


def _wrap(ipa: str, max_symbols: int) -> list[str]:
    lines = [""]
    for word in ipa.split():
        for piece in (word[start : start + max_symbols] for start in range(0, len(word), max_symbols)):
            if len(lines[-1]) + len(piece) + 1 > max_symbols and lines[-1]:
                lines.append("")
            lines[-1] = f"{lines[-1]} {piece}".strip()
    return [line for line in lines if line]


# Symbols -> h_text ----------------------------------------------------------------------------------------------------


class TextEncoder(nnx.Module):
    """Acoustic text encoder, upstream's TextEncoder (5.6M parameters).

    An embedding, `n_layer` convolutions of window 5 with layer norms, and a BiLSTM.
    """

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


# Symbols -> h_bert ----------------------------------------------------------------------------------------------------


class AlbertAttention(nnx.Module):
    """Self-attention, residual sum and norm."""

    def __init__(self, config: StyleTTS2Config):
        width = config.plbert_hidden
        self.heads = config.plbert_heads
        self.query, self.key, self.value, self.dense = (Linear(width, width) for _ in range(4))
        self.LayerNorm = LayerNorm(width, PLBERT_EPSILON)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], self.heads, -1)
        query, key, value = (part(x).reshape(heads) for part in (self.query, self.key, self.value))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return self.LayerNorm(x + self.dense(mixed.reshape(x.shape)))


class AlbertLayer(nnx.Module):
    """The layer that is applied `plbert_layers` times with the same weights (upstream's albert_layers.0)."""

    def __init__(self, config: StyleTTS2Config):
        self.attention = AlbertAttention(config)
        self.ffn = Linear(config.plbert_hidden, config.plbert_mlp)
        self.ffn_output = Linear(config.plbert_mlp, config.plbert_hidden)
        self.full_layer_layer_norm = LayerNorm(config.plbert_hidden, PLBERT_EPSILON)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.attention(x, mask)
        return self.full_layer_layer_norm(self.ffn_output(jax.nn.gelu(self.ffn(x), approximate=True)) + x)


class AlbertEmbeddings(nnx.Module):
    """Sum of the symbol's, the position's and the first token type's embedding, normalised."""

    def __init__(self, config: StyleTTS2Config):
        width = config.plbert_embedding
        self.word_embeddings = Embedding(config.n_token, width)
        self.position_embeddings = Embedding(config.plbert_positions, width)
        self.token_type_embeddings = Embedding(2, width)
        self.LayerNorm = LayerNorm(width, PLBERT_EPSILON)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        positions = self.position_embeddings(jnp.arange(tokens.shape[1]))
        return self.LayerNorm(self.word_embeddings(tokens) + positions + self.token_type_embeddings(0))


class PLBert(nnx.Module):
    """PL-BERT (Li et al. 2023), an ALBERT over phonemes (6.3M parameters): AlbertModel without its pooler."""

    def __init__(self, config: StyleTTS2Config):
        self.layers = config.plbert_layers
        self.embeddings = AlbertEmbeddings(config)
        self.embedding_hidden_mapping_in = Linear(config.plbert_embedding, config.plbert_hidden)
        self.layer = AlbertLayer(config)

    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the last hidden states [B, P, 768]; values on padding are arbitrary.

        Args:
          tokens: symbol ids int [B, P], P <= 512.
          lengths: true symbols of each text, int [B].
        """
        x = self.embedding_hidden_mapping_in(self.embeddings(tokens))
        mask = length_mask(lengths, tokens.shape[1])[:, None, None, :, 0]  # keys
        return jax.lax.fori_loop(0, self.layers, lambda _, x: self.layer(x, mask), x)
