"""Style encoder E_sty: expression coefficients of a clip -> one style code, gold S_video (2.5M parameters)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.transformer import Encoder, position_table
from empatheia_jax.generators.layers import Linear


def mish(x: jax.Array) -> jax.Array:
    """Return x tanh(softplus(x)), the mish activation."""
    return x * jnp.tanh(jax.nn.softplus(x))


class SelfAttentionPooling(nnx.Module):
    """Weighted mean over time, with weights computed from the values."""

    def __init__(self, width: int):
        self.W = nnx.Dict({"0": Linear(width, width), "2": Linear(width, 1)})

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return the mean [B, C] of x [B, T, C] over the times where `mask` bool [B, T] is true."""
        logits = self.W["2"](mish(self.W["0"](x)))[..., 0]
        weights = jax.nn.softmax(logits - jnp.where(mask, 0.0, 1e5), axis=-1)
        return jnp.einsum("bt,btc->bc", weights, x)


class StyleEncoder(nnx.Module):
    """Three transformer layers over the clip, and pooling."""

    def __init__(self, config: DreamTalkConfig):
        self.frames, self.dim = config.style_frames, config.expression_dim
        self.increase_embed_dim = Linear(config.expression_dim, config.width)
        self.encoder = Encoder(config.width, config.heads, config.mlp_width, config.layers)
        self.aggregate_method = SelfAttentionPooling(config.width)

    def __call__(self, clip: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return style codes [B, 256] of zero-padded clips [B, 256, 64] with true frames `lengths` [B]."""
        x = self.increase_embed_dim(clip)
        mask = jnp.arange(clip.shape[1])[None] < lengths[:, None]
        x = self.encoder(x + position_table(clip.shape[1], x.shape[-1]).astype(x.dtype), mask)
        return self.aggregate_method(x, mask)

    def null(self) -> jax.Array:
        """Return the code of no style [1, 256]: that of a full clip of zeros."""
        return self(jnp.zeros((1, self.frames, self.dim)), jnp.array([self.frames]))
