"""iSTFTNet vocoder with style (LJSpeech): frames -> magnitudes and phases -> waveform."""

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.generators.layers import Conv, ConvTranspose, leaky
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import length_mask
from empatheia_jax.generators.styletts2.vocoder import Vocoder


def hann(size: int) -> np.ndarray:
    """Periodic Hann window, float64 [size]."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def stft(x: jax.Array, lengths: jax.Array, size: int, hop: int) -> jax.Array:
    """Centred STFT, reflected at each row's own ends: [B, S], lengths [B] -> complex64 [B, S / hop + 1, size / 2 + 1].

    Real bins (the first and the last, and all of frame 0, whose samples are symmetric) have an imaginary part of +0,
    so that their phase is 0 or +pi, never -pi.
    """
    half, last = size // 2, lengths[:, None] - 1
    at = jnp.abs(jnp.arange(-half, x.shape[1] + half))[None]
    at = jnp.where(at > last, 2 * last - at, at)
    padded = jnp.where(at >= 0, jnp.take_along_axis(x, jnp.clip(at, 0, x.shape[1] - 1), axis=1), 0)
    frames = np.arange(x.shape[1] // hop + 1)[:, None] * hop + np.arange(size)
    cut = padded[:, frames] * jnp.asarray(hann(size), x.dtype)  # [B, T, size]
    angle = 2 * np.pi * np.outer(np.arange(size), np.arange(half + 1)) / size
    real = cut @ jnp.asarray(np.cos(angle), x.dtype)
    imaginary = -(cut @ jnp.asarray(np.sin(angle), x.dtype))
    exact = np.ones((frames.shape[0], half + 1), bool)
    exact[0] = exact[:, 0] = exact[:, -1] = False
    return jax.lax.complex(real, jnp.where(exact, imaginary, 0.0))


def istft(spectrum: jax.Array, lengths: jax.Array, size: int, hop: int) -> jax.Array:
    """The way back: complex [B, T, size / 2 + 1], `lengths` [B] true frames -> [B, (T - 1) hop], 0 behind."""
    rows, count = spectrum.shape[:2]
    window = hann(size)
    mask = length_mask(lengths, count)
    cut = jnp.fft.irfft(jnp.where(mask, spectrum, 0), n=size, axis=-1) * jnp.asarray(window, jnp.float32)
    weights = mask * jnp.asarray(np.square(window), jnp.float32)  # [B, T, size]
    added, total = (_overlap(part, hop) for part in (cut, weights))
    x = (added / jnp.where(total > 1e-11, total, 1.0))[:, size // 2 : size // 2 + (count - 1) * hop]
    return jnp.where(length_mask((lengths - 1) * hop, x.shape[1])[..., 0], x, 0)


def _overlap(cut: jax.Array, hop: int) -> jax.Array:
    """Frames [B, T, size], one every `hop` -> their sum [B, (T - 1) hop + size]; size is a multiple of hop."""
    rows, count, size = cut.shape
    pieces = cut.reshape(rows, count, size // hop, hop)
    total = jnp.zeros((rows, count + size // hop - 1, hop), cut.dtype)
    for index in range(size // hop):
        total = total.at[:, index : index + count].add(pieces[:, :, index])
    return total.reshape(rows, -1)


class ISTFTNet(Vocoder):
    """upstream's Generator of istftnet.py."""

    def __init__(self, config: StyleTTS2Config):
        def stretch(a, b, window, rate):
            return ConvTranspose(a, b, window, stride=rate, padding=(window - rate) // 2)

        self.size, self.hop = config.gen_istft_n_fft, config.gen_istft_hop_size
        super().__init__(config, self.size + 2, stretch)
        self.conv_post = Conv(self.widths[-1], self.size + 2, 7, padding=3)

    def harmonics(self, source: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Source [B, S] of true `lengths` samples [B] -> magnitude and phase [B, S / 5 + 1, 11]."""
        spectrum = stft(source.astype(jnp.float32), lengths, self.size, self.hop)
        return jnp.abs(spectrum), jnp.angle(spectrum)

    def spectrum(self, x: jax.Array, style: jax.Array, harmonics, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, L, 512] and what `harmonics` gave -> (conv_post's output [B, 60 L + 1, 22], its true lengths [B])."""
        frames = int(np.prod(self.rates)) * lengths + 1
        heard = jnp.concatenate(harmonics, axis=-1)
        heard = jnp.where(length_mask(frames, heard.shape[1]), heard, 0).astype(x.dtype)
        for index, up in enumerate(self.ups):
            lengths = lengths * self.rates[index]
            x = up(leaky(x, 0.1))
            if index + 1 == len(self.ups):  # a reflected frame in front: the STFT has one more than the hops
                x = jnp.concatenate([x[:, 1:2], x], axis=1)
                lengths = lengths + 1
            mask = length_mask(lengths, x.shape[1])
            x = self.mix(index, x, heard, style, mask)
        return self.conv_post(jnp.where(mask, leaky(x, 0.01), 0)), lengths

    def __call__(self, x: jax.Array, style: jax.Array, source: jax.Array, lengths: jax.Array) -> jax.Array:
        """x [B, L, 512] with true `lengths` [B], acoustic style [B, 128], source [B, 300 L] -> waveform [B, 300 L]."""
        both, frames = self.spectrum(x, style, self.harmonics(source, 300 * lengths), lengths)
        magnitude, phase = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        phase = jnp.sin(phase)
        spectrum = jnp.exp(magnitude) * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        return istft(spectrum, frames, self.size, self.hop)
