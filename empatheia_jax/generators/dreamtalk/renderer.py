"""PIRenderer (Ren et al. 2021, arXiv:2109.08379): one portrait and the motion around each frame -> frames."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.layers import Conv, ConvTranspose, Linear, leaky_relu, normalise

EPSILON = 1e-5  # of every norm
SLOPE = 0.1  # of every leaky ReLU, where it is negative


# Norms, on images [B, H, W, C] ----------------------------------------------------------------------------------------


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


# Mapping network: motion -> descriptor --------------------------------------------------------------------------------


class MappingNet(nnx.Module):
    """From the motion around a frame to the descriptor that conditions the other two networks (0.7M parameters).

    Convolutions over 27 frames that leave 3 positions, and their mean.
    """

    def __init__(self, config: RendererConfig):
        self.first = nnx.Dict({"0": Conv(config.motion_dim, config.descriptor, 7)})
        self.encoder0, self.encoder1, self.encoder2 = (
            nnx.Dict({"1": Conv(config.descriptor, config.descriptor, 3, dilation=3)}) for _ in range(3)
        )

    def __call__(self, motion: jax.Array) -> jax.Array:
        """Return descriptors [B, 256] of windows of motion [B, 27, 73]."""
        x = self.first["0"](motion)
        for block in (self.encoder0, self.encoder1, self.encoder2):
            x = block["1"](leaky_relu(x, SLOPE)) + x[:, 3:-3]
        return x.mean(axis=1)


# Warping by a flow ----------------------------------------------------------------------------------------------------


def deformation(flow: jax.Array) -> jax.Array:
    """Return the sampling grid [B, h, w, 2], -1..1, of a flow [B, h, w, 2] in pixels (x, y)."""
    height, width = flow.shape[1:3]
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1) + 2 * flow / jnp.array([width - 1, height - 1], flow.dtype)


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """Enlarge [B, h, w, C] as torch's bilinear interpolation with `align_corners=False`."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "bilinear")


def grid_sample(image: jax.Array, grid: jax.Array) -> jax.Array:
    """Sample an image as torch's grid_sample: bilinear, zeros outside, `align_corners=False`.

    Args:
      image: [B, H, W, C].
      grid: [B, h, w, 2], x then y; -1 and 1 are the image's outer edges.

    Returns:
      [B, h, w, C].
    """
    height, width = image.shape[1:3]
    x = ((grid[..., 0] + 1) * width - 1) / 2
    y = ((grid[..., 1] + 1) * height - 1) / 2
    # Points far outside sample zeros; clip them so that indices fit in int32.
    x, y = jnp.clip(x, -2, width + 1), jnp.clip(y, -2, height + 1)
    left, top = jnp.floor(x), jnp.floor(y)
    batch = jnp.arange(len(image))[:, None, None]

    def corner(column, row):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
        index = jnp.clip(row, 0, height - 1).astype(jnp.int32), jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return image[batch, *index] * jnp.where(inside, weight, 0)[..., None]

    return functools.reduce(jnp.add, (corner(left + dx, top + dy) for dy in (0, 1) for dx in (0, 1)))


def warp(image: jax.Array, flow: jax.Array) -> jax.Array:
    """Warp an image [B, H, W, C] by a flow [B, h, w, 2] of lower resolution; the result has the image's shape.

    The published networks were trained with a grid that is built as if -1 and 1 were the centres of the outermost
    pixels, but resized and sampled as if they were their outer edges. So a flow of zero is not the identity: it zooms
    by 64 / 63 and fades to 0 at the border.
    """
    return grid_sample(image, resize_bilinear(deformation(flow), *image.shape[1:3]))


# Warping network: portrait, descriptor -> flow ------------------------------------------------------------------------


class DownBlock(nnx.Module):
    """Downsampling block, [B, H, W, C] -> [B, H / 2, W / 2, C']."""

    def __init__(self, config: RendererConfig, width_in: int, width_out: int):
        self.norm_0 = ADAIN(width_in, config.descriptor, config.norm_width)
        self.norm_1 = ADAIN(width_out, config.descriptor, config.norm_width)
        self.conv_0 = Conv(width_in, width_out, (4, 4), stride=2, padding=1)
        self.conv_1 = Conv(width_out, width_out, (3, 3), padding=1)

    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        x = self.conv_0(leaky_relu(self.norm_0(x, code), SLOPE))
        return self.conv_1(leaky_relu(self.norm_1(x, code), SLOPE))


class UpBlock(nnx.Module):
    """Upsampling block by two, with a shortcut that has an upsampling layer of its own."""

    def __init__(self, config: RendererConfig, width_in: int, width_out: int):
        def upsampling(width):
            return ConvTranspose(width, width_out, (3, 3), stride=2, padding=1, output_padding=1)

        self.norm_0, self.norm_s = (ADAIN(width_in, config.descriptor, config.norm_width) for _ in range(2))
        self.norm_1 = ADAIN(width_out, config.descriptor, config.norm_width)
        self.conv_0 = Conv(width_in, width_out, (3, 3), padding=1)
        self.conv_1, self.conv_s = upsampling(width_out), upsampling(width_in)

    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        shortcut = self.conv_s(leaky_relu(self.norm_s(x, code), SLOPE))
        x = self.conv_0(leaky_relu(self.norm_0(x, code), SLOPE))
        return shortcut + self.conv_1(leaky_relu(self.norm_1(x, code), SLOPE))


class WarpingNet(nnx.Module):
    """From portrait and descriptor to the flow that warps it (12.7M parameters); upstream spells it warpping_net.

    An hourglass network whose decoder stops at a quarter of the size.
    """

    def __init__(self, config: RendererConfig):
        widths, levels = config.flow_widths, config.flow_levels
        steps = enumerate(zip(widths, widths[1:], strict=False))
        blocks = {f"encoder{i}": DownBlock(config, width_in, width_out) for i, (width_in, width_out) in steps}
        encoder: dict[str, Any] = {"input_layer": Conv(3, widths[0], (7, 7), padding=3)} | blocks
        decoder: dict[str, Any] = {}
        width, last = widths[-1], len(widths) - 2
        for number in range(last, last - levels, -1):
            decoder[f"decoder{number}"] = UpBlock(config, width, widths[number])
            width = 2 * widths[number]  # a skip connection of the same width is concatenated
        self.hourglass = nnx.Dict({"encoder": nnx.Dict(encoder), "decoder": nnx.Dict(decoder)})
        self.flow_out = nnx.Dict({"0": LayerNorm2d(width), "2": Conv(width, 2, (7, 7), padding=3)})

    def __call__(self, portrait: jax.Array, code: jax.Array) -> jax.Array:
        """Return flows [B, 64, 64, 2], in their own pixels, of portraits [B, 256, 256, 3] and descriptors [B, 256]."""
        encoder, decoder = self.hourglass["encoder"], self.hourglass["decoder"]
        x = encoder["input_layer"](portrait)
        skips = []
        for number in range(len(encoder) - 1):
            skips.append(x)  # the input of block `number`
            x = encoder[f"encoder{number}"](x, code)
        for number in range(len(encoder) - 2, len(encoder) - 2 - len(decoder), -1):
            x = decoder[f"decoder{number}"](x, code)
            x = jnp.concatenate([x, skips[number]], axis=-1)
        return self.flow_out["2"](leaky_relu(self.flow_out["0"](x), SLOPE))


# Editing network: portrait, warped portrait, descriptor -> image ------------------------------------------------------


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
    """Refines the warped portrait (9.1M parameters, 3.2M of which have no effect; see ResBlock).

    An encoder down to an eighth of the size, and a decoder with residual blocks before and skips after each step up.
    """

    def __init__(self, config: RendererConfig):
        widths = config.edit_widths
        self.levels = len(widths) - 1
        steps = list(zip(widths, widths[1:], strict=False))
        self.encoder = nnx.Dict(
            {"first": Block(6, widths[0], 7)} | {f"down{i}": Block(a, b) for i, (a, b) in enumerate(steps)}
        )
        decoder: dict[str, Any] = {"final": nnx.Dict({"model": nnx.Dict({"0": Conv(widths[0], 3, (7, 7), padding=3)})})}
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


# Renderer -------------------------------------------------------------------------------------------------------------


class Renderer(nnx.Module):
    """PIRenderer's three networks under upstream's names."""

    def __init__(self, config: RendererConfig, *, rngs: nnx.Rngs | None = None):
        """Build the networks; `rngs` is not used, since frozen weights are loaded (see `generators.layers`)."""
        self.mapping_net = MappingNet(config)
        self.warpping_net = WarpingNet(config)
        self.editing_net = EditingNet(config)

    def __call__(self, portrait: jax.Array, windows: jax.Array) -> jax.Array:
        """Render frames uint8 [F, 256, 256, 3] of a portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73]."""
        image = jnp.broadcast_to(portrait.astype(jnp.float32) / 127.5 - 1, (len(windows), *portrait.shape))
        return to_uint8(self.draw(image, windows))

    def draw(self, image: jax.Array, windows: jax.Array) -> jax.Array:
        """Render images [F, 256, 256, 3], -1..1, of as many portraits, -1..1, and windows of motion [F, 27, 73]."""
        code = self.mapping_net(windows)
        warped = warp(image, self.warpping_net(image, code))
        return self.editing_net(image, warped, code)


def to_uint8(image: jax.Array) -> jax.Array:
    """Convert -1..1 to uint8 by truncation, as upstream does."""
    return ((jnp.clip(image, -1, 1) + 1) / 2 * 255).astype(jnp.uint8)
