"""Warping network: portrait and descriptor -> the flow that warps it (12.7M parameters).

Upstream spells it warpping_net.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.dreamtalk.mapping import SLOPE
from empatheia_jax.generators.dreamtalk.norms import ADAIN, LayerNorm2d
from empatheia_jax.generators.layers import Conv, ConvTranspose, leaky_relu


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
    """An hourglass network whose decoder stops at a quarter of the size."""

    def __init__(self, config: RendererConfig):
        widths, levels = config.flow_widths, config.flow_levels
        steps = enumerate(zip(widths, widths[1:], strict=False))
        blocks = {f"encoder{i}": DownBlock(config, width_in, width_out) for i, (width_in, width_out) in steps}
        encoder = {"input_layer": Conv(3, widths[0], (7, 7), padding=3)} | blocks
        decoder, width = {}, widths[-1]
        last = len(widths) - 2
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
