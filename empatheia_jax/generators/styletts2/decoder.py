"""Decoder: text features, F0, energy and acoustic style -> waveform (upstream's Decoder, 54M)."""

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
    """Residual blocks that read F0 and energy again and again, then the vocoder."""

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
        kinds = {"hifigan": HifiGan, "istftnet": ISTFTNet}
        self.generator = kinds[config.decoder_type](config)

    def features(
        self, asr: jax.Array, f0: jax.Array, energy: jax.Array, style: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """asr [B, L, 512] of true `lengths` [B], F0 in Hz and energy [B, 2L], style [B, 128] -> what the vocoder reads
        [B, 2L, 512], and what the first block gave [B, L, 1024]."""
        mask = length_mask(lengths, asr.shape[1])
        asr = jnp.where(mask, asr, 0).astype(self.dtype)
        curves = [
            jnp.where(mask, conv(curve[..., None]), 0).astype(self.dtype)  # Hz in, so float32 up to here
            for conv, curve in ((self.F0_conv, f0), (self.N_conv, energy))
        ]
        encoded, _ = self.encode(jnp.concatenate([asr, *curves], axis=-1), style, mask)
        beside = jnp.where(mask, self.asr_res[0](asr), 0)
        x, kept = encoded, mask
        for block in self.decode:
            x, kept = block(jnp.concatenate([x, beside, *curves], axis=-1), style, kept)
        return x, encoded

    def source(self, f0: jax.Array, noise: jax.Array) -> jax.Array:
        """F0 [B, 2L], 0 behind a row's end, and noise [B, 600 L, 9] -> source [B, 600 L]."""
        return self.generator.m_source(f0, noise)

    def __call__(self, asr, f0, energy, style, noise, lengths: jax.Array) -> jax.Array:
        """As `features`, with normal `noise` [B, 600 L, 9] -> waveform [B, 600 L], -1..1, 24 kHz."""
        x, _ = self.features(asr, f0, energy, style, lengths)
        return self.generator(x, style, self.source(f0, noise), 2 * lengths)
