"""The base of both vocoders: stages that upsample, add the harmonic source, and average residual blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.layers import Conv, ConvTranspose
from empatheia_jax.generators.styletts2.adain import AdaINResBlock1
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.source import SourceModule


class Vocoder(nnx.Module):
    """The modules that upstream's two Generators have in common, under upstream's names."""

    def __init__(self, config: StyleTTS2Config, source_width: int, upsampling: Callable[..., ConvTranspose]):
        """Build the stages.

        Args:
          config: sizes.
          source_width: channels of the source.
          upsampling: (width_in, width_out, window, rate) -> the upsampling layer of a stage.
        """
        self.rates = config.upsample_rates
        self.widths = tuple(config.upsample_initial_channel // 2**power for power in range(len(self.rates) + 1))
        style = config.style_dim
        self.m_source = SourceModule()
        self.ups, self.noise_convs, self.noise_res = nnx.List([]), nnx.List([]), nnx.List([])
        self.resblocks = nnx.List([])
        for index, (rate, window) in enumerate(zip(self.rates, config.upsample_kernel_sizes, strict=True)):
            width_in, width_out = self.widths[index : index + 2]
            self.ups.append(upsampling(width_in, width_out, window, rate))
            remaining = int(np.prod(self.rates[index + 1 :]))
            is_last = index + 1 == len(self.rates)
            shape = (
                {"window": 1}
                if is_last
                else {"window": 2 * remaining, "stride": remaining, "padding": (remaining + 1) // 2}
            )
            self.noise_convs.append(Conv(source_width, width_out, **shape))
            self.noise_res.append(AdaINResBlock1(width_out, 11 if is_last else 7, (1, 3, 5), style))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(AdaINResBlock1(width_out, kernel, dilations, style))

    def mix(self, index: int, x: jax.Array, source: jax.Array, style: jax.Array, *, mask: jax.Array) -> jax.Array:
        """Add the source to upsampled x [B, T, C] of stage `index`, then average its residual blocks."""
        count = len(self.resblocks) // len(self.rates)
        addition = self.noise_res[index](jnp.where(mask, self.noise_convs[index](source), 0), style, mask)
        x = jnp.where(mask, x, 0) + addition
        return sum(block(x, style, mask) for block in self.resblocks[index * count : (index + 1) * count]) / count
