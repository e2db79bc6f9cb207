"""Layers of StyleTTS 2: convolutions, BiLSTM, norms whose scale and shift come from a style vector.

Kernels are plain: weight and spectral norm of the published files are folded in at conversion. Each says by its
`layout` what kind of layer it is of. All is 0 until weights are loaded: nothing here is trained.
"""

import math

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


class Conv(nnx.Module):
    """torch's Conv1d or Conv2d on [B, *S, C]: `padding` zeros on both sides of every axis of S."""

    def __init__(
        self, width_in: int, width_out: int, window: int | tuple[int, ...], *, stride: int = 1, padding: int = 0,
        dilation: int = 1, groups: int = 1, bias: bool = True,
    ):  # fmt: skip
        window = (window,) if isinstance(window, int) else window
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.kernel = weight((*window, width_in // groups, width_out), "conv")
        self.bias = zeros(width_out) if bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        numbers = ("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...].astype(x.dtype), (self.stride,) * axes, [(self.padding, self.padding)] * axes,
            rhs_dilation=(self.dilation,) * axes, dimension_numbers=numbers, feature_group_count=self.groups,
        )  # fmt: skip
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class ConvTranspose(nnx.Module):
    """torch's ConvTranspose1d on [B, T, C] as a convolution of the stretched input; the kernel lies flipped in time."""

    def __init__(
        self, width_in: int, width_out: int, window: int, *, stride: int, padding: int, output_padding: int = 0,
        groups: int = 1,
    ):  # fmt: skip
        self.stride, self.groups = stride, groups
        self.padding = (window - 1 - padding, window - 1 - padding + output_padding)
        layout = "conv_transpose" if groups == 1 else "depthwise_transpose"
        self.kernel = weight((window, width_in // groups, width_out), layout)
        self.bias = zeros(width_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...].astype(x.dtype), (1,), [self.padding], lhs_dilation=(self.stride,),
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=self.groups,
        )  # fmt: skip
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


def normalise(x: jax.Array, epsilon: float) -> jax.Array:
    """x less its mean over the last axis, over its deviation; float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class AdaLayerNorm(nnx.Module):
    """Layer norm [B, T, C] whose scale (less 1) and shift are a linear map `fc` of the style [B, S]."""

    def __init__(self, style: int, width: int):
        self.fc = Linear(style, 2 * width)

    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.fc(style.astype(jnp.float32))[:, None], 2, axis=-1)
        return ((1 + scale) * normalise(x, 1e-5) + shift).astype(x.dtype)


class AdaIN(nnx.Module):
    """Instance norm over time [B, T, C], of what `mask` [B, T, 1] keeps, then scale (less 1) and shift by the style."""

    def __init__(self, style: int, width: int):
        self.fc = Linear(style, 2 * width)

    def __call__(self, x: jax.Array, style: jax.Array, mask: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.fc(style.astype(jnp.float32))[:, None], 2, axis=-1)
        x32 = x.astype(jnp.float32)
        count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True).astype(jnp.float32), 1.0)
        # Selected, not multiplied: XLA's sum of a product with the mask takes ten times as long on a CPU.
        mean = jnp.sum(jnp.where(mask, x32, 0), axis=1, keepdims=True) / count
        variance = jnp.sum(jnp.where(mask, jnp.square(x32 - mean), 0), axis=1, keepdims=True) / count
        gain = (1 + scale) * jax.lax.rsqrt(variance + 1e-5)
        return jnp.where(mask, (x32 - mean) * gain + shift, 0).astype(x.dtype)


class LSTMDirection(nnx.Module):
    """torch's LSTM cell run over time; gates stand in torch's order i, f, g, o; its two biases are one."""

    def __init__(self, width_in: int, width: int):
        self.input_kernel = weight((width_in, 4 * width), "linear")
        self.hidden_kernel = weight((width, 4 * width), "linear")
        self.bias = zeros(4 * width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, in] -> hidden states [B, T, H]; every row from its first step on."""
        gates = jnp.swapaxes(x @ self.input_kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype), 0, 1)
        hidden_kernel = self.hidden_kernel[...].astype(x.dtype)

        def step(carry, gate):
            hidden, cell = carry
            i, f, g, o = jnp.split((gate + hidden @ hidden_kernel).astype(jnp.float32), 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(x.dtype)
            return (hidden, cell), hidden

        shape = (x.shape[0], hidden_kernel.shape[0])
        start = (jnp.zeros(shape, x.dtype), jnp.zeros(shape, jnp.float32))
        return jnp.swapaxes(jax.lax.scan(step, start, gates)[1], 0, 1)


class BiLSTM(nnx.Module):
    """torch's bidirectional LSTM on packed rows: [B, T, in] with lengths [B] -> [B, T, 2H], 0 on padding."""

    def __init__(self, width_in: int, width_out: int):
        self.forward = LSTMDirection(width_in, width_out // 2)
        self.backward = LSTMDirection(width_in, width_out // 2)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        time = jnp.arange(x.shape[1])[None]
        # Backwards from each row's own last step: padding stays where it is, behind.
        turned = jnp.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)[..., None]
        back = jnp.take_along_axis(self.backward(jnp.take_along_axis(x, turned, axis=1)), turned, axis=1)
        both = jnp.concatenate([self.forward(x), back], axis=-1)
        return jnp.where(length_mask(lengths, x.shape[1]), both, 0)


def length_mask(lengths: jax.Array, size: int) -> jax.Array:
    """bool [B, size, 1]: true before a row's end."""
    return (jnp.arange(size)[None] < lengths[:, None])[..., None]


def leaky(x: jax.Array, slope: float = 0.2) -> jax.Array:
    """Leaky ReLU."""
    return jnp.where(x >= 0, x, slope * x)


def snake(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """x + sin(alpha x)^2 / alpha, alpha [C]; float32 inside."""
    alpha, x32 = alpha.astype(jnp.float32), x.astype(jnp.float32)
    return (x32 + sine_squared(alpha * x32) * (1 / alpha)).astype(x.dtype)


def sine_squared(x: jax.Array) -> jax.Array:
    """sin(x)^2, float32: one period is pi, and there a polynomial is exact to rounding.

    A vocoder does this 24 times a stage to every number it has. XLA's sine, right for any argument, takes 20 times as
    long on a CPU. Up to |x| of about 1e5 nothing is lost.
    """
    turns = jnp.round(x * (1 / math.pi))
    # pi in two parts, the first of so few bits that its multiples are exact
    x = (x - turns * 3.140625) - turns * (math.pi - 3.140625)
    z = jnp.square(x)
    # Chebyshev fit of sin(sqrt z) / sqrt z over (0, (pi / 2)^2), off by 4e-9
    series = 1.0 + z * (-0.16666658 + z * (8.333051e-3 + z * (-1.9809046e-4 + z * 2.6051662e-6)))
    return z * jnp.square(series)
