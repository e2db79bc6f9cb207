"""HiFi-GAN vocoder with style (LibriTTS): frames -> waveform, the source added at every scale."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.styletts2.adain import AdaINResBlock1
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import Conv, ConvTranspose, length_mask, snake
from empatheia_jax.generators.styletts2.source import SourceModule


class HifiGan(nnx.Module):
    """upstream's Generator."""

    def __init__(self, config: StyleTTS2Config):
        self.rates = config.upsample_rates
        widths = [config.upsample_initial_channel // 2**power for power in range(len(self.rates) + 1)]
        style = config.style_dim
        self.m_source = SourceModule()
        self.ups, self.noise_convs, self.noise_res = nnx.List([]), nnx.List([]), nnx.List([])
        self.resblocks = nnx.List([])
        for index, (rate, window) in enumerate(zip(self.rates, config.upsample_kernel_sizes, strict=True)):
            a, b = widths[index : index + 2]
            self.ups.append(
                ConvTranspose(
                    a, b, window, stride=rate, padding=rate // 2 + rate % 2, output_padding=rate % 2
                )
            )
            later = int(np.prod(self.rates[index + 1 :]))
            last = index + 1 == len(self.rates)
            shape = {"window": 1} if last else {"window": 2 * later, "stride": later, "padding": (later + 1) // 2}
            self.noise_convs.append(Conv(1, b, **shape))
            self.noise_res.append(AdaINResBlock1(b, 11 if last else 7, (1, 3, 5), style))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(AdaINResBlock1(b, kernel, dilations, style))
        self.alphas = nnx.List([nnx.Param(jnp.ones(width)) for width in widths])
        self.conv_post = Conv(widths[-1], 1, 7, padding=3)

    def __call__(self, x: jax.Array, style: jax.Array, source: jax.Array, lengths: jax.Array) -> jax.Array:
        """x [B, L, 512] with true `lengths` [B], acoustic style [B, 128], source [B, 300 L] -> waveform [B, 300 L]."""
        count = len(self.resblocks) // len(self.rates)
        source = jnp.where(length_mask(300 * lengths, source.shape[1]), source[..., None].astype(x.dtype), 0)
        for index, up in enumerate(self.ups):
            lengths = lengths * self.rates[index]
            x = up(snake(x, self.alphas[index][...]))
            mask = length_mask(lengths, x.shape[1])
            added = self.noise_res[index](jnp.where(mask, self.noise_convs[index](source), 0), style, mask)
            x = jnp.where(mask, x, 0) + added
            blocks = self.resblocks[index * count : (index + 1) * count]
            x = sum(block(x, style, mask) for block in blocks) / count
        x = self.conv_post(jnp.where(mask, snake(x, self.alphas[-1][...]), 0))
        return jnp.where(mask, jnp.tanh(x.astype(jnp.float32)), 0)[..., 0]
