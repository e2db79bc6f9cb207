"""Layers that the frozen networks of the generators are built of, computing as torch's.

Kernels are plain: weight and spectral norm of published files are folded in at conversion. Each says by its `layout`
what kind of layer it is of, from which converters know how it lies in a file. All is 0 until weights are loaded:
nothing here is trained.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def weight(shape: tuple[int, ...], layout: str) -> nnx.Param:
    """A kernel; `layout` is "linear", "conv", "conv_transpose" or "depthwise_transpose"."""
    return nnx.Param(jnp.zeros(shape), layout=layout)


def zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape))


class Linear(nnx.Module):
    """[..., in] -> [..., out]."""

    def __init__(self, width_in: int, width_out: int, *, bias: bool = True):
        self.kernel = weight((width_in, width_out), "linear")
        self.bias = zeros(width_out) if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _numbers(axes: int) -> tuple[str, str, str]:
    return ("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC")


class Conv(nnx.Module):
    """torch's Conv1d or Conv2d on [B, *S, C]: `padding` zeros on both sides of every axis of S."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        window: int | tuple[int, ...],
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        window = (window,) if isinstance(window, int) else window
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.kernel = weight((*window, width_in // groups, width_out), "conv")
        self.bias = zeros(width_out) if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride,) * axes,
            [(self.padding, self.padding)] * axes,
            rhs_dilation=(self.dilation,) * axes,
            dimension_numbers=_numbers(axes),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class ConvTranspose(nnx.Module):
    """torch's ConvTranspose1d or 2d on [B, *S, C] as a convolution of the stretched input; the kernel lies flipped."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        window: int | tuple[int, ...],
        *,
        stride: int,
        padding: int,
        output_padding: int = 0,
        groups: int = 1,
    ):
        window = (window,) if isinstance(window, int) else window
        self.stride, self.groups = stride, groups
        self.padding = [(size - 1 - padding, size - 1 - padding + output_padding) for size in window]
        layout = "conv_transpose" if groups == 1 else "depthwise_transpose"
        self.kernel = weight((*window, width_in // groups, width_out), layout)
        self.bias = zeros(width_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (1,) * axes,
            self.padding,
            lhs_dilation=(self.stride,) * axes,
            dimension_numbers=_numbers(axes),
            feature_group_count=self.groups,
        )
        return y + self.bias[...].astype(x.dtype)


class Embedding(nnx.Module):
    """Ids [...] -> rows [..., C]."""

    def __init__(self, count: int, width: int):
        self.table = zeros(count, width)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.table[...][ids]


class LayerNorm(nnx.Module):
    """Over the last axis, in float32."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = zeros(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return (normalise(x, self.epsilon) * self.scale[...] + self.bias[...]).astype(x.dtype)


def normalise(x: jax.Array, epsilon: float, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """x less its mean over `axis`, over its deviation; float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True) + epsilon)


def leaky(x: jax.Array, slope: float = 0.2) -> jax.Array:
    """Leaky ReLU."""
    return jnp.where(x >= 0, x, slope * x)
