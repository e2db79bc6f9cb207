"""Transformer layers of encoders, projectors and latents: float32, with logical axis names (`sharding`)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.model.initial_values import NormalSource
from empatheia_jax.model.shapes import Array, Bool, Float
from empatheia_jax.model.sharding import gather_weight, param


def draw_kernel(rngs: NormalSource, shape: tuple[int, int], axes: tuple[str, ...], scale: float = 1.0) -> nnx.Param:
    """Draw a matrix [in, out] with LeCun's variance times scale^2."""
    value = rngs.normal(shape) * scale / math.sqrt(shape[0])
    return param(value, *axes)


class Linear(nnx.Module):
    """y = x W + b in float32; `axes` are the logical names of [in, out]."""

    def __init__(self, width_in: int, width_out: int, *axes: str, rngs: NormalSource, scale: float = 1.0):
        self.axes = axes
        self.kernel = draw_kernel(rngs, (width_in, width_out), axes, scale)
        self.bias = param(jnp.zeros(width_out), axes[1])

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return x @ gather_weight(self.kernel[...], *self.axes) + gather_weight(self.bias[...], *self.axes)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis in float32, returned in x's dtype; the default epsilon is torch's.

    `shape` is that of scale and bias, `axes` its logical names; a leading axis of layers is for a scan.
    """

    def __init__(self, shape: tuple[int, ...], *axes: str, epsilon: float = 1e-5):
        self.epsilon, self.axes = epsilon, axes
        self.scale = param(jnp.ones(shape, jnp.float32), *axes)
        self.bias = param(jnp.zeros(shape, jnp.float32), *axes)

    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        scale, bias = gather_weight(self.scale[...], *self.axes), gather_weight(self.bias[...], *self.axes)
        return (normed * scale + bias).astype(x.dtype)


class FeedForward(nnx.Module):
    """Two linear layers with GELU (tanh form) between: the FFN of Eqs. 1-6."""

    def __init__(
        self, width_in: int, mlp_width: int, width_out: int, *, rngs: NormalSource, input_axis: str = "latent"
    ):
        self.up = Linear(width_in, mlp_width, input_axis, "latent_mlp", rngs=rngs)
        self.down = Linear(mlp_width, width_out, "latent_mlp", "latent", rngs=rngs)

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return self.down(jax.nn.gelu(self.up(x)))


class Attention(nnx.Module):
    """Multi-head attention of queries to the positions of a memory where `mask` is true.

    Where an Example's mask is all false, its queries attend to everything: mask the result.
    """

    def __init__(self, width: int, heads: int, *, rngs: NormalSource, memory_width: int | None = None):
        self.heads = heads
        memory_width = memory_width or width
        self.query = Linear(width, width, "latent", "latent_heads", rngs=rngs)
        self.key = Linear(memory_width, width, "latent", "latent_heads", rngs=rngs)
        self.value = Linear(memory_width, width, "latent", "latent_heads", rngs=rngs)
        self.out = Linear(width, width, "latent_heads", "latent", rngs=rngs)

    def __call__(
        self, queries: Float[Array, "K Q D"], memory: Float[Array, "K S Dm"], mask: Bool[Array, "K S"]
    ) -> Float[Array, "K Q D"]:
        def split(x):  # [K, S, D] -> [K, S, H, D/H]
            return x.reshape(*x.shape[:-1], self.heads, -1)

        # With nothing to attend to (padding) the softmax would be 0/0.
        mask = mask | ~jnp.any(mask, axis=-1, keepdims=True)
        q, k, v = split(self.query(queries)), split(self.key(memory)), split(self.value(memory))
        attended = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])  # [K, Q, H, D/H]
        return self.out(attended.reshape(queries.shape))


def sinusoid(position: Float[Array, "*shape"], width: int, period: float = 10000.0) -> Float[Array, "*shape {width}"]:
    """Compute the sinusoidal code of positions: sines, then cosines, of wavelengths 2 pi to 2 pi `period`.

    An odd width ends with a zero.
    """
    rates = jnp.exp(-math.log(period) * jnp.arange(width // 2) / max(width // 2 - 1, 1))
    angle = position[..., None] * rates
    code = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(code, [(0, 0)] * (code.ndim - 1) + [(0, width - code.shape[-1])])
