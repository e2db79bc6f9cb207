"""What both vocoders are built of: stages that stretch time, add the source, and mix residual blocks."""

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
    """The parts that upstream's two Generators have in common, under upstream's names."""

    def __init__(self, config: StyleTTS2Config, heard: int, stretch: Callable[[int, int, int, int], ConvTranspose]):
        """`heard`: channels of the source; `stretch(width_in, width_out, window, rate)` makes a stage's upsampling."""
        self.rates = config.upsample_rates
        self.widths = tuple(config.upsample_initial_channel // 2**power for power in range(len(self.rates) + 1))
        style = config.style_dim
        self.m_source = SourceModule()
        self.ups, self.noise_convs, self.noise_res = nnx.List([]), nnx.List([]), nnx.List([])
        self.resblocks = nnx.List([])
        for index, (rate, window) in enumerate(zip(self.rates, config.upsample_kernel_sizes, strict=True)):
            a, b = self.widths[index : index + 2]
            self.ups.append(stretch(a, b, window, rate))
            later = int(np.prod(self.rates[index + 1 :]))
            last = index + 1 == len(self.rates)
            shape = {"window": 1} if last else {"window": 2 * later, "stride": later, "padding": (later + 1) // 2}
            self.noise_convs.append(Conv(heard, b, **shape))
            self.noise_res.append(AdaINResBlock1(b, 11 if last else 7, (1, 3, 5), style))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(AdaINResBlock1(b, kernel, dilations, style))

    def mix(self, index: int, x: jax.Array, source: jax.Array, style: jax.Array, mask: jax.Array) -> jax.Array:
        """Stage `index` behind its upsampling: x [B, T, C] and the source, then the mean of its residual blocks."""
        count = len(self.resblocks) // len(self.rates)
        added = self.noise_res[index](jnp.where(mask, self.noise_convs[index](source), 0), style, mask)
        x = jnp.where(mask, x, 0) + added
        return sum(block(x, style, mask) for block in self.resblocks[index * count : (index + 1) * count]) / count
