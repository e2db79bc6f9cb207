"""The 34 tokens that Vicuna does not know (<Aud>, <Vid>, <AUD1..16>, <VID1..16>): a small trainable table of their own.

Their ids follow the base vocabulary. Kept apart, they train while the base table stays frozen, and export is a resize.
"""

import jax.numpy as jnp
from flax import nnx

from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS
from empatheia_jax.llm.llama import Llama
from empatheia_jax.model import sharding
from empatheia_jax.model.initial_values import INIT_STD, NormalSource
from empatheia_jax.model.shapes import Array, Float, Int

NEW_TOKEN_COUNT = len(NEW_TOKENS)


class NewTokens(nnx.Module):
    """Input and output embeddings of the new tokens, float32 [34, D] each."""

    def __init__(self, width: int, *, rngs: NormalSource):
        shape = (NEW_TOKEN_COUNT, width)
        self.input = nnx.Param(INIT_STD * rngs.normal(shape), out_sharding=(None, "embed"), eager_sharding=False)
        self.output = nnx.Param(INIT_STD * rngs.normal(shape), out_sharding=(None, "embed"), eager_sharding=False)


def embed(llm: Llama, new_tokens: NewTokens | None, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
    """Return the input embeddings of tokens of the joint vocabulary (base, then the 34).

    Args:
      llm: holds the base table.
      new_tokens: the new tokens' table; None: all tokens are of the base.
      tokens: ids.

    Returns:
      The embeddings, in the compute dtype.
    """
    if new_tokens is None:
        return llm.embed(tokens)
    size = llm.config.vocab_size
    is_new = tokens >= size
    base = llm.embed(jnp.where(is_new, 0, tokens))
    table = sharding.gather_weight(new_tokens.input[...], "unsharded", "embed").astype(base.dtype)
    new = table[jnp.clip(tokens - size, 0, NEW_TOKEN_COUNT - 1)]
    return jnp.where(is_new[..., None], new, base)


def logits(llm: Llama, new_tokens: NewTokens, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
    """Return the float32 logits of hidden states over the joint vocabulary, V and the 34."""
    table = new_tokens.output[...].astype(hidden.dtype)
    new = jnp.einsum("...d,nd->...n", hidden, table, preferred_element_type=jnp.float32)
    return jnp.concatenate([llm.logits(hidden), new], axis=-1)
