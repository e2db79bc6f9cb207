"""Projections (section 4.1): encoder features of one utterance -> N tokens in the LLM's semantic space."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import ProjectorConfig
from empatheia_jax.layers import Attention, FeedForward, LayerNorm, Linear
from empatheia_jax.sharding import keep_rows, param


class Projector(nnx.Module):
    """Attention pooling: N learned queries read the feature tokens, so N is not baked into stored features."""

    def __init__(self, config: ProjectorConfig, shape: tuple[int, int], llm_width: int, *, rngs: nnx.Rngs):
        """Args:
        shape: (Na, Da) of the encoder. llm_width: D of the LLM.
        """
        count, features = shape
        self.inputs = Linear(features, config.width, "features", "latent", rngs=rngs)
        self.position = param(rngs.normal((count, config.width)) * 0.1, "rows", "latent")
        self.queries = param(rngs.normal((config.tokens, config.width)), "rows", "latent")
        self.norm_inputs, self.norm_mlp = (LayerNorm((config.width,), "latent") for _ in range(2))
        self.attention = Attention(config.width, config.heads, rngs=rngs)
        self.mlp = FeedForward(config.width, 2 * config.width, config.width, rngs=rngs)
        self.out = Linear(config.width, llm_width, "latent", "features", rngs=rngs)
        # Set from the training features (`empatheia.attune`): what all faces share must not drown the rest.
        self.shift = param(jnp.zeros(features), "features")
        self.scale = param(jnp.ones(features), "features")
        # Set to the size of the base's word embeddings before training, so that a slot weighs as much as a word.
        self.gain = param(jnp.full((1,), 0.02), "rows")

    def __call__(self, features: jax.Array) -> jax.Array:
        """[M, Na, Da] -> [M, N, D], each token of root mean square `gain`."""
        features = (features.astype(jnp.float32) - self.shift[...]) * self.scale[...]
        x = keep_rows(self.inputs(features) + self.position[...])
        x = self.norm_inputs(jax.nn.gelu(x))
        mask = jnp.ones(x.shape[:2], bool)
        queries = jnp.broadcast_to(self.queries[...], (x.shape[0], *self.queries.shape))
        y = keep_rows(queries) + self.attention(queries, x, mask)
        y = self.out(y + self.mlp(self.norm_mlp(y)))
        return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6) * self.gain[...]
