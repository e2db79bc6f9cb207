"""The 34 tokens that Vicuna does not know (<Aud>, <Vid>, <AUD1..16>, <VID1..16>): a small trainable table of their own.

Their ids follow the base vocabulary. Kept apart, they train while the base table stays frozen, and export is a resize.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax import sharding
from empatheia_jax.initial_values import INIT_STD
from empatheia_jax.llm.llama import Llama

COUNT = 34


class NewTokens(nnx.Module):
    """Input and output rows [34, D] of the new tokens, float32."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        shape = (COUNT, width)
        self.input = nnx.Param(INIT_STD * rngs.normal(shape), out_sharding=(None, "embed"), eager_sharding=False)
        self.output = nnx.Param(INIT_STD * rngs.normal(shape), out_sharding=(None, "embed"), eager_sharding=False)


def embed(llm: Llama, new_tokens: NewTokens | None, tokens: jax.Array) -> jax.Array:
    """Input rows of tokens int [...] over the joint vocabulary (base, then the 34) -> [..., D] in the compute dtype."""
    if new_tokens is None:
        return llm.embed(tokens)
    size = llm.config.vocab_size
    new = tokens >= size
    base = llm.embed(jnp.where(new, 0, tokens))
    table = sharding.gathered(new_tokens.input[...], "rows", "embed").astype(base.dtype)
    rows = table[jnp.clip(tokens - size, 0, COUNT - 1)]
    return jnp.where(new[..., None], rows, base)


def logits(llm: Llama, new_tokens: NewTokens, hidden: jax.Array) -> jax.Array:
    """Hidden states [..., D] -> float32 logits [..., V + 34] over the joint vocabulary."""
    rows = new_tokens.output[...].astype(hidden.dtype)
    new = jnp.einsum("...d,nd->...n", hidden, rows, preferred_element_type=jnp.float32)
    return jnp.concatenate([llm.logits(hidden), new], axis=-1)
