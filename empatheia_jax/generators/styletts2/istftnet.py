"""iSTFTNet vocoder conditioned on style (LJSpeech): frames -> magnitudes and phases -> waveform."""

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.generators.layers import Conv, ConvTranspose, leaky_relu
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import length_mask
from empatheia_jax.generators.styletts2.vocoder import Vocoder


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
    """The vocoder, upstream's Generator of istftnet.py."""

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
        both, frames = self.spectrum(x, style, self.harmonics(source, 300 * lengths), lengths)
        magnitude, phase = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        phase = jnp.sin(phase)
        spectrum = jnp.exp(magnitude) * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        return istft(spectrum, frames, self.size, self.hop)
