"""Decoder: text features, F0, energy and acoustic style -> waveform (upstream's Decoder, 54M parameters)."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv
from empatheia_jax.generators.styletts2.adain import AdainResBlk1d
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.hifigan import HifiGan
from empatheia_jax.generators.styletts2.istftnet import ISTFTNet
from empatheia_jax.generators.styletts2.layers import length_mask

HIDDEN, RESIDUAL = 1024, 64


class Decoder(nnx.Module):
    """Residual blocks, each of which also reads F0 and energy, then the vocoder."""

    def __init__(self, config: StyleTTS2Config):
        width, style = config.hidden_dim, config.style_dim
        self.dtype = jnp.dtype(config.compute_dtype)
        self.encode = AdainResBlk1d(width + 2, HIDDEN, style)
        self.decode = nnx.List(
            [AdainResBlk1d(HIDDEN + 2 + RESIDUAL, HIDDEN, style) for _ in range(3)]
            + [AdainResBlk1d(HIDDEN + 2 + RESIDUAL, width, style, upsample=True)]
        )
        self.F0_conv, self.N_conv = (Conv(1, 1, 3, stride=2, padding=1) for _ in range(2))
        self.asr_res = nnx.List([Conv(width, RESIDUAL, 1)])
        vocoders = {"hifigan": HifiGan, "istftnet": ISTFTNet}
        self.generator = vocoders[config.decoder_type](config)

    def features(
        self, asr: jax.Array, f0: jax.Array, energy: jax.Array, style: jax.Array, *, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Compute the vocoder's input.

        Args:
          asr: text features [B, L, 512], one per frame of 25 ms.
          f0: F0 in Hz [B, 2L].
          energy: [B, 2L].
          style: acoustic style [B, 128].
          lengths: true frames of each utterance, int [B].

        Returns:
          The vocoder's input [B, 2L, 512] and the output of the first block [B, L, 1024].
        """
        mask = length_mask(lengths, asr.shape[1])
        asr = jnp.where(mask, asr, 0).astype(self.dtype)
        curves = [
            jnp.where(mask, conv(curve[..., None]), 0).astype(self.dtype)  # F0 is in Hz: float32 until it is convolved
            for conv, curve in ((self.F0_conv, f0), (self.N_conv, energy))
        ]
        encoded, _ = self.encode(jnp.concatenate([asr, *curves], axis=-1), style, mask)
        residual = jnp.where(mask, self.asr_res[0](asr), 0)
        x, x_mask = encoded, mask
        for block in self.decode:
            x, x_mask = block(jnp.concatenate([x, residual, *curves], axis=-1), style, x_mask)
        return x, encoded

    def source(self, f0: jax.Array, noise: jax.Array) -> jax.Array:
        """Return the harmonic source [B, 600 L] of F0 [B, 2L] (0 on padding) and normal noise [B, 600 L, 9]."""
        return self.generator.m_source(f0, noise)

    def __call__(self, asr, f0, energy, style, *, noise: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return waveforms [B, 600 L], -1..1 at 24 kHz; arguments as of `features`, with normal noise [B, 600 L, 9]."""
        x, _ = self.features(asr, f0, energy, style, lengths=lengths)
        return self.generator(x, style, self.source(f0, noise), 2 * lengths)
