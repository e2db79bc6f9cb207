"""HiFi-GAN vocoder conditioned on style (LibriTTS): frames -> waveform, the harmonic source added at every scale."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, ConvTranspose
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import length_mask, snake
from empatheia_jax.generators.styletts2.vocoder import Vocoder


class HifiGan(Vocoder):
    """The vocoder, upstream's Generator of hifigan.py."""

    def __init__(self, config: StyleTTS2Config):
        def upsampling(width_in, width_out, window, rate):
            odd = rate % 2
            return ConvTranspose(width_in, width_out, window, stride=rate, padding=rate // 2 + odd, output_padding=odd)

        super().__init__(config, 1, upsampling)
        self.alphas = nnx.List([nnx.Param(jnp.ones(width)) for width in self.widths])
        self.conv_post = Conv(self.widths[-1], 1, 7, padding=3)

    def __call__(self, x: jax.Array, style: jax.Array, source: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return waveforms [B, 300 L].

        Args:
          x: frames [B, L, 512].
          style: acoustic style [B, 128].
          source: harmonic source [B, 300 L].
          lengths: true frames of each utterance, int [B].
        """
        source = jnp.where(length_mask(300 * lengths, source.shape[1]), source[..., None].astype(x.dtype), 0)
        for index, up in enumerate(self.ups):
            lengths = lengths * self.rates[index]
            x = up(snake(x, self.alphas[index][...]))
            mask = length_mask(lengths, x.shape[1])
            x = self.mix(index, x, source, style, mask=mask)
        x = self.conv_post(jnp.where(mask, snake(x, self.alphas[-1][...]), 0))
        return jnp.where(mask, jnp.tanh(x.astype(jnp.float32)), 0)[..., 0]
