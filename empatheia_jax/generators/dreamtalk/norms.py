"""Norms of the renderer, on images [B, H, W, C]."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Linear, normalise

EPSILON = 1e-5


class ADAIN(nnx.Module):
    """Instance norm whose scale minus 1 and shift are computed from a code by a small network."""

    def __init__(self, width: int, code: int, hidden: int):
        self.mlp_shared = nnx.Dict({"0": Linear(code, hidden)})
        self.mlp_gamma, self.mlp_beta = Linear(hidden, width), Linear(hidden, width)

    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        """Normalise x [B, H, W, C], conditioned on codes [B, D]."""
        hidden = jax.nn.relu(self.mlp_shared["0"](code))
        gain, shift = (part(hidden)[:, None, None] for part in (self.mlp_gamma, self.mlp_beta))
        return (normalise(x, EPSILON, (1, 2)) * (1 + gain) + shift).astype(x.dtype)


class LayerNorm2d(nnx.Module):
    """Norm over height, width and channels of each image, with a scale and a shift for each channel."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width), layout="channel")
        self.bias = nnx.Param(jnp.zeros(width), layout="channel")

    def __call__(self, x: jax.Array) -> jax.Array:
        return (normalise(x, EPSILON, (1, 2, 3)) * self.scale[...] + self.bias[...]).astype(x.dtype)
