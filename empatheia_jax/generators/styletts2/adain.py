"""Residual blocks whose norms are conditioned on the style vector, for the prosody predictor, decoder and vocoders."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, ConvTranspose, leaky_relu
from empatheia_jax.generators.styletts2.layers import AdaIN, snake


class AdainResBlk1d(nnx.Module):
    """Residual block (upstream's AdainResBlk1d): [B, T, C] -> [B, T, C'], or [B, 2T, C'] with `upsample`."""

    def __init__(self, width_in: int, width_out: int, style: int, *, upsample: bool = False):
        self.upsample = upsample
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
        if self.upsample:
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
