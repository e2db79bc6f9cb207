"""Layers of StyleTTS 2 besides `generators.layers`: norms conditioned on a style vector, BiLSTM, residual blocks."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, ConvTranspose, Linear, kernel_param, leaky_relu, normalise, zero_param


class AdaLayerNorm(nnx.Module):
    """Layer norm of [B, T, C] whose scale minus 1 and shift are a linear map `fc` of the style [B, S]."""

    def __init__(self, style: int, width: int):
        self.fc = Linear(style, 2 * width)

    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.fc(style.astype(jnp.float32))[:, None], 2, axis=-1)
        return ((1 + scale) * normalise(x, 1e-5) + shift).astype(x.dtype)


class AdaIN(nnx.Module):
    """Instance norm of [B, T, C] over the times where `mask` [B, T, 1] is true; scale and shift as in AdaLayerNorm."""

    def __init__(self, style: int, width: int):
        self.fc = Linear(style, 2 * width)

    def __call__(self, x: jax.Array, style: jax.Array, mask: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.fc(style.astype(jnp.float32))[:, None], 2, axis=-1)
        x32 = x.astype(jnp.float32)
        count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True).astype(jnp.float32), 1.0)
        # `where` instead of a product: XLA's sum of a product with the mask takes ten times as long on a CPU.
        mean = jnp.sum(jnp.where(mask, x32, 0), axis=1, keepdims=True) / count
        variance = jnp.sum(jnp.where(mask, jnp.square(x32 - mean), 0), axis=1, keepdims=True) / count
        gain = (1 + scale) * jax.lax.rsqrt(variance + 1e-5)
        return jnp.where(mask, (x32 - mean) * gain + shift, 0).astype(x.dtype)


class LSTMDirection(nnx.Module):
    """One direction of torch's LSTM; gates are in torch's order i, f, g, o, and its two biases are summed."""

    def __init__(self, width_in: int, width: int):
        self.input_kernel = kernel_param((width_in, 4 * width), "linear")
        self.hidden_kernel = kernel_param((width, 4 * width), "linear")
        self.bias = zero_param(4 * width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the hidden states [B, T, H] of x [B, T, width_in]."""
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
    """torch's bidirectional LSTM on packed sequences [B, T, width_in] of `lengths` [B] -> [B, T, 2H], 0 on padding."""

    def __init__(self, width_in: int, width_out: int):
        self.forward = LSTMDirection(width_in, width_out // 2)
        self.backward = LSTMDirection(width_in, width_out // 2)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        time = jnp.arange(x.shape[1])[None]
        # Reverse each sequence within its own length: padding stays at the end.
        reversed_time = jnp.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)[..., None]
        back = jnp.take_along_axis(self.backward(jnp.take_along_axis(x, reversed_time, axis=1)), reversed_time, axis=1)
        hidden = jnp.concatenate([self.forward(x), back], axis=-1)
        return jnp.where(length_mask(lengths, x.shape[1]), hidden, 0)


def length_mask(lengths: jax.Array, size: int) -> jax.Array:
    """Return bool [B, size, 1], true at the positions below `lengths` int [B]."""
    return (jnp.arange(size)[None] < lengths[:, None])[..., None]


def snake(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """Return x + sin(alpha x)^2 / alpha (the snake activation) for alpha [C], computed in float32."""
    alpha, x32 = alpha.astype(jnp.float32), x.astype(jnp.float32)
    return (x32 + sine_squared(alpha * x32) * (1 / alpha)).astype(x.dtype)


def sine_squared(x: jax.Array) -> jax.Array:
    """Return sin(x)^2 in float32, by a polynomial on one period (pi) that is exact to rounding.

    A vocoder computes this 24 times per upsampling stage for every activation, and XLA's sine takes 20 times as long on
    a CPU. No accuracy is lost up to |x| of about 1e5.
    """
    turns = jnp.round(x * (1 / math.pi))
    # pi in two parts; the first has so few bits that its multiples are exact
    x = (x - turns * 3.140625) - turns * (math.pi - 3.140625)
    z = jnp.square(x)
    # Chebyshev fit of sin(sqrt z) / sqrt z over (0, (pi / 2)^2), error 4e-9
    series = 1.0 + z * (-0.16666658 + z * (8.333051e-3 + z * (-1.9809046e-4 + z * 2.6051662e-6)))
    return z * jnp.square(series)


# Residual blocks ------------------------------------------------------------------------------------------------------


class AdainResBlk1d(nnx.Module):
    """Residual block (upstream's AdainResBlk1d): [B, T, C] -> [B, T, C'], or [B, 2T, C'] with `upsample`."""

    def __init__(self, width_in: int, width_out: int, style: int, *, upsample: bool = False):
        self.conv1 = Conv(width_in, width_out, 3, padding=1)
        self.conv2 = Conv(width_out, width_out, 3, padding=1)
        self.norm1, self.norm2 = AdaIN(style, width_in), AdaIN(style, width_out)
        self.conv1x1 = self.pool = nnx.data(None)
        if width_in != width_out:
            self.conv1x1 = Conv(width_in, width_out, 1, bias=False)
        if upsample:
            self.pool = ConvTranspose(width_in, width_in, 3, stride=2, padding=1, output_padding=1, groups=width_in)

    def __call__(self, x: jax.Array, style: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the output, 0 on padding, and its mask; `mask` bool [B, T, 1] is true on x's frames."""
        shortcut, x = x, jnp.where(mask, leaky_relu(self.norm1(x, style, mask)), 0)
        if self.pool is not None:
            shortcut, mask = jnp.repeat(shortcut, 2, axis=1), jnp.repeat(mask, 2, axis=1)
            x = jnp.where(mask, self.pool(x), 0)
        x = jnp.where(mask, leaky_relu(self.norm2(self.conv1(x), style, mask)), 0)
        if self.conv1x1 is not None:
            shortcut = self.conv1x1(shortcut)
        return jnp.where(mask, (self.conv2(x) + shortcut) / math.sqrt(2), 0), mask


class AdaINResBlock1(nnx.Module):
    """Residual block of the vocoders (upstream's AdaINResBlock1): growing dilation, snake activations."""

    def __init__(self, width: int, window: int, dilations: tuple[int, ...], style: int):
        def convolution(dilation):
            return Conv(width, width, window, padding=(window - 1) * dilation // 2, dilation=dilation)

        self.convs1 = nnx.List([convolution(dilation) for dilation in dilations])
        self.convs2 = nnx.List([convolution(1) for _ in dilations])
        self.adain1 = nnx.List([AdaIN(style, width) for _ in dilations])
        self.adain2 = nnx.List([AdaIN(style, width) for _ in dilations])
        self.alpha1 = nnx.List([nnx.Param(jnp.ones(width)) for _ in dilations])
        self.alpha2 = nnx.List([nnx.Param(jnp.ones(width)) for _ in dilations])

    def __call__(self, x: jax.Array, style: jax.Array, mask: jax.Array) -> jax.Array:
        """Return [B, T, C] for x [B, T, C] with mask bool [B, T, 1]; 0 on padding."""
        parts = (self.convs1, self.convs2, self.adain1, self.adain2, self.alpha1, self.alpha2)
        for conv1, conv2, norm1, norm2, alpha1, alpha2 in zip(*parts, strict=True):
            y = conv1(jnp.where(mask, snake(norm1(x, style, mask), alpha1[...]), 0))
            y = conv2(jnp.where(mask, snake(norm2(y, style, mask), alpha2[...]), 0))
            x = jnp.where(mask, x + y, 0)
        return x
