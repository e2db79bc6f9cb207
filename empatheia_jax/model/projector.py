"""Projections (section 4.1) of an utterance's encoder features to N tokens in the LLM's semantic space."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import ProjectorConfig
from empatheia_jax.model.initial_values import NormalSource
from empatheia_jax.model.layers import Attention, FeedForward, LayerNorm, Linear
from empatheia_jax.model.shapes import Array, Float
from empatheia_jax.model.sharding import param, shard_rows


class Projector(nnx.Module):
    """Attention pooling by N learned queries over the feature tokens, so stored features do not depend on N."""

    def __init__(self, config: ProjectorConfig, shape: tuple[int, int], llm_width: int, *, rngs: NormalSource):
        """Create the parameters.

        Args:
          config: width, heads and tokens.
          shape: (Na, Da) of the encoder.
          llm_width: D of the LLM.
          rngs: for the initial values.
        """
        count, features = shape
        self.inputs = Linear(features, config.width, "features", "latent", rngs=rngs)
        self.position = param(rngs.normal((count, config.width)) * 0.1, "unsharded", "latent")
        self.queries = param(rngs.normal((config.tokens, config.width)), "unsharded", "latent")
        self.norm_inputs, self.norm_mlp = (LayerNorm((config.width,), "latent") for _ in range(2))
        self.attention = Attention(config.width, config.heads, rngs=rngs)
        self.mlp = FeedForward(config.width, 2 * config.width, config.width, rngs=rngs)
        self.out = Linear(config.width, llm_width, "latent", "features", rngs=rngs)
        # Set from the training features (`empatheia.calibrate_new_parameters`): else the mean of all faces dominates.
        self.shift = param(jnp.zeros(features), "features")
        self.scale = param(jnp.ones(features), "features")
        # Set to the root mean square of the base's word embeddings before training: slots and words then weigh alike.
        self.gain = param(jnp.full((1,), 0.02), "unsharded")

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(Na, Da) of the encoder."""
        return self.position.shape[0], self.shift.shape[0]

    def __call__(self, features: Float[Array, "M Na Da"]) -> Float[Array, "M N D"]:
        """Project features to float32 tokens, each of root mean square `gain`."""
        features = (features.astype(jnp.float32) - self.shift[...]) * self.scale[...]
        x = shard_rows(self.inputs(features) + self.position[...])
        x = self.norm_inputs(jax.nn.gelu(x))
        mask = jnp.ones(x.shape[:2], bool)
        queries = jnp.broadcast_to(self.queries[...], (x.shape[0], *self.queries.shape))
        y = shard_rows(queries) + self.attention(queries, x, mask)
        y = self.out(y + self.mlp(self.norm_mlp(y)))
        return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6) * self.gain[...]
