"""The bidirectional transformer that HuBERT and the CLIP vision tower share: stacked, scanned layers.

The two differ only in where a layer normalises (before or after its residual sums) and in the activation.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import ConfigError
from empatheia_jax.model.initial_values import INIT_STD, draw_stacked
from empatheia_jax.model.layers import LayerNorm
from empatheia_jax.model.shapes import Array
from empatheia_jax.model.sharding import param

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # as in OpenAI's CLIP
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape and dtypes of an encoder's transformer.

    Norms are stored and computed in float32 whatever the dtypes.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    pre_norm: bool  # x + f(norm(x)); otherwise norm(x + f(x)), as in the original transformer
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_epsilon: float = 1e-5
    compute_dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.width % self.heads:
            raise ConfigError(f"encoder width {self.width} is not a multiple of heads {self.heads}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"encoder activation {self.activation!r} is not one of {sorted(ACTIVATIONS)}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Affine(nnx.Module):
    """A linear map y = x W + b in x's dtype, [..., *inputs] -> [..., *outputs].

    Args:
      kernel: W [*inputs, *outputs], or [L, *inputs, *outputs] for layers that are scanned.
      axes_in: logical names of the input axes.
      axes_out: logical names of the output axes.
    """

    def __init__(self, kernel: jax.Array, axes_in: tuple[str, ...], axes_out: tuple[str, ...]):
        self.contracted = len(axes_in)
        stack = ("layers",) * (kernel.ndim - len(axes_in) - len(axes_out))
        self.kernel = param(kernel, *stack, *axes_in, *axes_out)
        bias_shape = kernel.shape[: len(stack)] + kernel.shape[len(stack) + len(axes_in) :]
        self.bias = param(jnp.zeros(bias_shape, kernel.dtype), *stack, *axes_out)

    def __call__(self, x: Array) -> Array:
        return jnp.tensordot(x, self.kernel[...].astype(x.dtype), self.contracted) + self.bias[...].astype(x.dtype)


class Layers(nnx.Module):
    """All layers of the transformer, stacked: every Param has a leading axis L."""

    def __init__(self, config: TransformerConfig, key: jax.Array):
        self.config = config
        embed, mlp = {"embed": config.width}, {"mlp": config.mlp_width}
        heads = {"heads": config.heads, "head_dim": config.head_dim}
        axes = {
            "q_proj": (embed, heads),
            "k_proj": (embed, heads),
            "v_proj": (embed, heads),
            "o_proj": (heads, embed),
            "up_proj": (embed, mlp),
            "down_proj": (mlp, embed),
        }
        shapes = {name: (*x.values(), *y.values()) for name, (x, y) in axes.items()}
        scales = dict.fromkeys(axes, INIT_STD)
        kernels = draw_stacked(jax.random.normal, key, shapes, scales, layers=config.layers, dtype=config.param_dtype)

        def project(name: str) -> Affine:
            axes_in, axes_out = axes[name]
            return Affine(kernels[name], tuple(axes_in), tuple(axes_out))

        self.q_proj = project("q_proj")
        self.k_proj = project("k_proj")
        self.v_proj = project("v_proj")
        self.o_proj = project("o_proj")
        self.up_proj = project("up_proj")
        self.down_proj = project("down_proj")
        shape = (config.layers, config.width)
        self.attention_norm = LayerNorm(shape, "layers", "embed", epsilon=config.norm_epsilon)
        self.mlp_norm = LayerNorm(shape, "layers", "embed", epsilon=config.norm_epsilon)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Run all layers on [B, S, D]; attention sees positions where `mask` bool [B, S] is true (None: everywhere)."""
        return jax.lax.scan(lambda x, layer: (layer.apply_layer(x, mask), None), x, self)[0]

    def states(self, x: Array, mask: Array | None = None) -> Array:
        """Return the input and every layer's output for `__call__`'s arguments: [1 + L, B, S, D]."""

        def body(x, layer):
            x = layer.apply_layer(x, mask)
            return x, x

        return jnp.concatenate([x[None], jax.lax.scan(body, x, self)[1]])

    def apply_layer(self, x: Array, mask: Array | None) -> Array:
        """Run one layer, on a `Layers` whose leading axis the scan has removed."""
        if self.config.pre_norm:
            x = x + self._attend(self.attention_norm(x), mask)
            return x + self._mlp(self.mlp_norm(x))
        x = self.attention_norm(x + self._attend(x, mask))
        return self.mlp_norm(x + self._mlp(x))

    def _attend(self, x, mask):
        if mask is not None:
            mask = mask[:, None, None, :]
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # [B, S, H, D/H]
        return self.o_proj(jax.nn.dot_product_attention(query, key, value, mask=mask))

    def _mlp(self, x):
        return self.down_proj(ACTIVATIONS[self.config.activation](self.up_proj(x)))


def convolution_kernel(key: jax.Array, shape: tuple[int, ...], axes: tuple[str, ...], dtype: str) -> nnx.Param:
    """Draw a kernel [*window, in, out] with He's variance 2 / fan in."""
    value = jax.random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:-1]))
    return param(value.astype(dtype), *axes)
