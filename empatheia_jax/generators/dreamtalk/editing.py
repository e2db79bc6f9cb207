"""Editing network: refines the warped portrait (9.1M parameters, 3.2M of which have no effect; see ResBlock)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.dreamtalk.mapping import SLOPE
from empatheia_jax.generators.dreamtalk.norms import ADAIN, LayerNorm2d
from empatheia_jax.generators.layers import Conv, leaky_relu


class Block(nnx.Module):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, width_in: int, width_out: int, window: int = 3):
        self.model = nnx.Dict(
            {"0": Conv(width_in, width_out, (window, window), padding=window // 2), "1": LayerNorm2d(width_out)}
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return leaky_relu(self.model["1"](self.model["0"](x)), SLOPE)


class ResBlock(nnx.Module):
    """Residual block: x + ADAIN(conv(x)).

    The published block also computes a convolution and a norm before these, but does not use their result. Their
    weights (conv1, norm1) are in the published file and have no counterpart here.
    """

    def __init__(self, config: RendererConfig, width: int):
        self.conv2 = Conv(width, width, (3, 3), padding=1)
        self.norm2 = ADAIN(width, config.descriptor, config.norm_width)

    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        return x + self.norm2(self.conv2(x), code)


def average_pool(x: jax.Array) -> jax.Array:
    """Return the means of 2 x 2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Repeat every pixel 2 x 2 times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class EditingNet(nnx.Module):
    """Encoder down to an eighth of the size, and a decoder with residual blocks before and skips after each step up."""

    def __init__(self, config: RendererConfig):
        widths = config.edit_widths
        self.levels = len(widths) - 1
        steps = list(zip(widths, widths[1:], strict=False))
        self.encoder = nnx.Dict(
            {"first": Block(6, widths[0], 7)} | {f"down{i}": Block(a, b) for i, (a, b) in enumerate(steps)}
        )
        decoder = {"final": nnx.Dict({"model": nnx.Dict({"0": Conv(widths[0], 3, (7, 7), padding=3)})})}
        for i, (below, above) in enumerate(steps):
            decoder[f"res{i}"] = nnx.Dict({f"res{j}": ResBlock(config, above) for j in range(config.edit_blocks)})
            decoder[f"up{i}"], decoder[f"jump{i}"] = Block(above, below), Block(below, below)
        self.decoder = nnx.Dict(decoder)

    def __call__(self, portrait: jax.Array, warped: jax.Array, code: jax.Array) -> jax.Array:
        """Return images [B, 256, 256, 3], -1..1.

        Args:
          portrait: [B, 256, 256, 3].
          warped: the portraits after `warp`, [B, 256, 256, 3].
          code: motion descriptors [B, 256].
        """
        x = self.encoder["first"](jnp.concatenate([portrait, warped], axis=-1))
        skips = []
        for level in range(self.levels):
            skips.append(x)
            x = average_pool(self.encoder[f"down{level}"](x))
        for level in reversed(range(self.levels)):
            for block in self.decoder[f"res{level}"].values():
                x = block(x, code)
            x = self.decoder[f"up{level}"](upsample_nearest(x)) + self.decoder[f"jump{level}"](skips[level])
        return jnp.tanh(self.decoder["final"]["model"]["0"](x))
