"""Layers of the generators' frozen networks, with the conventions of torch's layers.

Weight norm and spectral norm of published files are folded into the kernels at conversion. A kernel's `layout` metadata
names the kind of its layer, from which converters know the axis order in a published file. Parameters are 0 until
weights are loaded: nothing here is trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def kernel_param(shape: tuple[int, ...], layout: str) -> nnx.Param:
    """Return a kernel of zeros; `layout` is "linear", "conv", "conv_transpose" or "depthwise_transpose"."""
    return nnx.Param(jnp.zeros(shape), layout=layout)


def zero_param(*shape: int) -> nnx.Param:
    """Return a parameter of zeros."""
    return nnx.Param(jnp.zeros(shape))


class Linear(nnx.Module):
    """An affine map of the last axis, [..., width_in] -> [..., width_out]."""

    bias: Any  # nnx.Param, or None

    def __init__(self, width_in: int, width_out: int, *, bias: bool = True):
        self.kernel = kernel_param((width_in, width_out), "linear")
        self.bias = zero_param(width_out) if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _dimension_numbers(axes: int) -> tuple[str, str, str]:
    return ("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC")


class Conv(nnx.Module):
    """Convolution over [B, *S, C] as torch's Conv1d or Conv2d: `padding` zeros on both sides of every axis of S."""

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
        self.kernel = kernel_param((*window, width_in // groups, width_out), "conv")
        self.bias = zero_param(width_out) if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride,) * axes,
            [(self.padding, self.padding)] * axes,
            rhs_dilation=(self.dilation,) * axes,
            dimension_numbers=_dimension_numbers(axes),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class ConvTranspose(nnx.Module):
    """Transposed convolution over [B, *S, C] as torch's ConvTranspose1d or 2d.

    It is computed as a convolution of the dilated input, so the stored kernel is flipped.
    """

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
        self.kernel = kernel_param((*window, width_in // groups, width_out), layout)
        self.bias = zero_param(width_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (1,) * axes,
            self.padding,
            lhs_dilation=(self.stride,) * axes,
            dimension_numbers=_dimension_numbers(axes),
            feature_group_count=self.groups,
        )
        return y + self.bias[...].astype(x.dtype)


class Embedding(nnx.Module):
    """Lookup table, ids [...] -> vectors [..., C]."""

    def __init__(self, count: int, width: int):
        self.table = zero_param(count, width)

    def __call__(self, ids: jax.Array | int) -> jax.Array:
        return self.table[...][ids]


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, computed in float32."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = zero_param(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return (normalise(x, self.epsilon) * self.scale[...] + self.bias[...]).astype(x.dtype)


def normalise(x: jax.Array, epsilon: float, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Subtract the mean over `axis` and divide by the standard deviation, in float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True) + epsilon)


def leaky_relu(x: jax.Array, slope: float = 0.2) -> jax.Array:
    """Return x where it is positive, else `slope` times x."""
    return jnp.where(x >= 0, x, slope * x)
