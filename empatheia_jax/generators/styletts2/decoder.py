"""Decoder and vocoder: text features, F0, energy and acoustic style -> a 24 kHz waveform."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.layers import Conv, ConvTranspose, Linear, leaky_relu
from empatheia_jax.generators.styletts2.config import HOP, SAMPLE_RATE, StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import AdainResBlk1d, AdaINResBlock1, length_mask, snake

FRAMES_PER_SECOND = SAMPLE_RATE // HOP
HARMONICS = 9
AMPLITUDE, NOISE = 0.1, 0.003
VOICED_HZ = 10.0
HIDDEN, RESIDUAL = 1024, 64  # channels of the decoder's blocks, and of the text features that each reads again


# Harmonic source ------------------------------------------------------------------------------------------------------


def phases(f0: jax.Array) -> jax.Array:
    """Return the phases float32 [B, 300 L, 9] of harmonics 1 to 9, in cycles modulo 1, of F0 in Hz [B, L].

    Between the middles of two frames the phase is linear; before the first and after the last middle it is constant.
    The whole cycles of each frame's advance are dropped, so that float32 stays accurate over minutes (the original's
    plain cumulative sum has an error of 1e-2 for negative F0 or long speech).
    """
    harmonic, f0 = jnp.arange(1, HARMONICS + 1), f0.astype(jnp.float32)[..., None]
    frequency = f0 * harmonic  # [B, L, 9]
    advance = frequency / FRAMES_PER_SECOND  # cycles per frame
    whole_cycles = jnp.floor(frequency / SAMPLE_RATE)  # whole cycles per sample: they do not change the samples
    # The terms that accumulate must be exact: in float32, multiples of 1/64 Hz and their remainders are.
    coarse = jnp.round(f0 * 64) / 64
    fraction = ((coarse * harmonic) % FRAMES_PER_SECOND + (f0 - coarse) * harmonic) / FRAMES_PER_SECOND
    at_middle = jax.lax.associative_scan(lambda a, b: (a + b) % 1.0, fraction, axis=1)
    # Sample n comes r samples after the middle of frame i.
    n = jnp.arange(HOP * f0.shape[1])
    i = (n - HOP // 2) // HOP
    r = (n - HOP // 2 - HOP * i + 0.5)[:, None]
    following = jnp.clip(i + 1, 0, f0.shape[1] - 1)
    moving = ((i >= 0) & (i + 1 < f0.shape[1]))[:, None]
    step = advance[:, following] * (r / HOP) - (whole_cycles[:, following] * r) % 1.0
    return at_middle[:, jnp.clip(i, 0, None)] + jnp.where(moving, step, 0.0)


class SourceModule(nnx.Module):
    """Neural source-filter model: sines at F0 and its harmonics, mixed as learned, and noise (SourceModuleHnNSF)."""

    def __init__(self):
        self.l_linear = Linear(HARMONICS, 1)

    def __call__(self, f0: jax.Array, noise: jax.Array) -> jax.Array:
        """Return the source float32 [B, 300 L] of F0 in Hz [B, L] (0 on padding) and normal noise [B, 300 L, 9]."""
        voiced = jnp.repeat(f0 > VOICED_HZ, HOP, axis=1)[..., None].astype(jnp.float32)
        sines = AMPLITUDE * jnp.sin(2 * jnp.pi * phases(f0)) * voiced
        sines = sines + noise * (NOISE * voiced + AMPLITUDE / 3 * (1 - voiced))
        return jnp.tanh(self.l_linear(sines))[..., 0]


# What both vocoders share ---------------------------------------------------------------------------------------------


class Vocoder(nnx.Module):
    """What upstream's two Generators share: stages that upsample, add the harmonic source, average residual blocks."""

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
            shape: dict[str, Any] = (
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
        blocks = self.resblocks[index * count : (index + 1) * count]
        return functools.reduce(jnp.add, (block(x, style, mask) for block in blocks)) / count


# HiFi-GAN (LibriTTS) --------------------------------------------------------------------------------------------------


class HifiGan(Vocoder):
    """Vocoder whose stages end in the waveform, upstream's Generator of hifigan.py."""

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
        source = jnp.where(length_mask(HOP * lengths, source.shape[1]), source[..., None].astype(x.dtype), 0)
        for index, up in enumerate(self.ups):
            lengths = lengths * self.rates[index]
            x = up(snake(x, self.alphas[index][...]))
            mask = length_mask(lengths, x.shape[1])
            x = self.mix(index, x, source, style, mask=mask)
        x = self.conv_post(jnp.where(mask, snake(x, self.alphas[-1][...]), 0))
        return jnp.where(mask, jnp.tanh(x.astype(jnp.float32)), 0)[..., 0]


# iSTFTNet (LJSpeech) --------------------------------------------------------------------------------------------------


def hann(size: int) -> np.ndarray:
    """Return the periodic Hann window, float64 [size]."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def stft(x: jax.Array, lengths: jax.Array, size: int, hop: int) -> jax.Array:
    """Compute the centred STFT, with reflection at the ends of each signal.

    Real bins (the first and the last, and all of frame 0, whose samples are symmetric) have an imaginary part of +0,
    so that their phase is 0 or +pi, never -pi.

    Args:
      x: signals [B, S].
      lengths: true samples of each, int [B].
      size: samples in a window.
      hop: samples between windows.

    Returns:
      complex64 [B, S / hop + 1, size / 2 + 1].
    """
    half, last = size // 2, lengths[:, None] - 1
    index = jnp.abs(jnp.arange(-half, x.shape[1] + half))[None]
    index = jnp.where(index > last, 2 * last - index, index)
    padded = jnp.where(index >= 0, jnp.take_along_axis(x, jnp.clip(index, 0, x.shape[1] - 1), axis=1), 0)
    frames = np.arange(x.shape[1] // hop + 1)[:, None] * hop + np.arange(size)
    windowed = padded[:, frames] * jnp.asarray(hann(size), x.dtype)  # [B, T, size]
    angle = 2 * np.pi * np.outer(np.arange(size), np.arange(half + 1)) / size
    real = windowed @ jnp.asarray(np.cos(angle), x.dtype)
    imaginary = -(windowed @ jnp.asarray(np.sin(angle), x.dtype))
    exact = np.ones((frames.shape[0], half + 1), bool)
    exact[0] = exact[:, 0] = exact[:, -1] = False
    return jax.lax.complex(real, jnp.where(exact, imaginary, 0.0))


def istft(spectrum: jax.Array, lengths: jax.Array, size: int, hop: int) -> jax.Array:
    """Invert `stft`: spectrum complex [B, T, size / 2 + 1] with true frames `lengths` [B] -> [B, (T - 1) hop], 0 on
    padding."""
    batch, count = spectrum.shape[:2]
    window = hann(size)
    mask = length_mask(lengths, count)
    windowed = jnp.fft.irfft(jnp.where(mask, spectrum, 0), n=size, axis=-1) * jnp.asarray(window, jnp.float32)
    weights = mask * jnp.asarray(np.square(window), jnp.float32)  # [B, T, size]
    summed, total = (_overlap_add(part, hop) for part in (windowed, weights))
    x = (summed / jnp.where(total > 1e-11, total, 1.0))[:, size // 2 : size // 2 + (count - 1) * hop]
    return jnp.where(length_mask((lengths - 1) * hop, x.shape[1])[..., 0], x, 0)


def _overlap_add(windowed: jax.Array, hop: int) -> jax.Array:
    """Sum frames [B, T, size] placed every `hop` samples: [B, (T - 1) hop + size]; size is a multiple of hop."""
    batch, count, size = windowed.shape
    pieces = windowed.reshape(batch, count, size // hop, hop)
    total = jnp.zeros((batch, count + size // hop - 1, hop), windowed.dtype)
    for index in range(size // hop):
        total = total.at[:, index : index + count].add(pieces[:, :, index])
    return total.reshape(batch, -1)


class ISTFTNet(Vocoder):
    """Vocoder whose stages end in a spectrum, upstream's Generator of istftnet.py."""

    def __init__(self, config: StyleTTS2Config):
        def upsampling(width_in, width_out, window, rate):
            return ConvTranspose(width_in, width_out, window, stride=rate, padding=(window - rate) // 2)

        self.size, self.hop = config.gen_istft_n_fft, config.gen_istft_hop_size
        super().__init__(config, self.size + 2, upsampling)
        self.conv_post = Conv(self.widths[-1], self.size + 2, 7, padding=3)

    def harmonics(self, source: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return magnitude and phase [B, S / 5 + 1, 11] of the source [B, S] with true samples `lengths` [B]."""
        spectrum = stft(source.astype(jnp.float32), lengths, self.size, self.hop)
        return jnp.abs(spectrum), jnp.angle(spectrum)

    def spectrum(self, x: jax.Array, style: jax.Array, harmonics, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the log magnitudes and phases [B, 60 L + 1, 22] (conv_post's output) and their true frames [B].

        Args:
          x: frames [B, L, 512].
          style: acoustic style [B, 128].
          harmonics: magnitude and phase from `harmonics`.
          lengths: true frames of each utterance, int [B].
        """
        frames = int(np.prod(self.rates)) * lengths + 1
        source = jnp.concatenate(harmonics, axis=-1)
        source = jnp.where(length_mask(frames, source.shape[1]), source, 0).astype(x.dtype)
        for index, up in enumerate(self.ups):
            lengths = lengths * self.rates[index]
            x = up(leaky_relu(x, 0.1))
            if index + 1 == len(self.ups):  # reflect one frame in front: the STFT has one frame more than hops
                x = jnp.concatenate([x[:, 1:2], x], axis=1)
                lengths = lengths + 1
            mask = length_mask(lengths, x.shape[1])
            x = self.mix(index, x, source, style, mask=mask)
        return self.conv_post(jnp.where(mask, leaky_relu(x, 0.01), 0)), lengths

    def __call__(self, x: jax.Array, style: jax.Array, source: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return waveforms [B, 300 L]; arguments as of `HifiGan.__call__`."""
        both, frames = self.spectrum(x, style, self.harmonics(source, HOP * lengths), lengths)
        magnitude, phase = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        phase = jnp.sin(phase)
        spectrum = jnp.exp(magnitude) * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        return istft(spectrum, frames, self.size, self.hop)


# Decoder --------------------------------------------------------------------------------------------------------------


class Decoder(nnx.Module):
    """Residual blocks that also read F0 and energy, then the vocoder (upstream's Decoder, 54M parameters)."""

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
