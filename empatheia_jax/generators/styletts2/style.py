"""Style: a recording's log-mel, and the encoder that turns it into a style vector."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from flax import nnx

from empatheia_jax.generators.layers import Conv, Linear, leaky_relu
from empatheia_jax.generators.styletts2.config import HOP, SAMPLE_RATE, StyleTTS2Config, StyleTTS2Error
from empatheia_jax.generators.styletts2.layers import length_mask

FFT, WINDOW, MELS = 2048, 1200, 80
FILTERBANK_RATE = 16_000
"""The bands are those of 16 kHz audio although the audio is 24 kHz: upstream never passes the rate, in training too."""
MEAN, DEVIATION = -4.0, 4.0
TRIM_DB = 30  # what is this far below the loudest frame counts as silence
MIN_FRAMES = 65  # leave one column after four halvings and a window of 5


# Recording -> log-mel -------------------------------------------------------------------------------------------------


@functools.cache
def filterbank() -> np.ndarray:
    """Return HTK's triangular mel filters without area normalisation, float32 [1025, 80]."""

    def hz(mels):
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)

    top = 2595.0 * np.log10(1.0 + FILTERBANK_RATE / 2 / 700.0)
    points = hz(np.linspace(0.0, top, MELS + 2))
    bins = np.linspace(0, FILTERBANK_RATE // 2, FFT // 2 + 1)
    slopes = points[None] - bins[:, None]  # [1025, 82]
    width = np.diff(points)
    down, up = -slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]
    return np.maximum(0.0, np.minimum(down, up)).astype(np.float32)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Return the log-mel float32 [1 + S // 300, 80], about -1..1, of mono audio float32 [S] at 24 kHz, S >= 1025."""
    window = np.zeros(FFT)
    begin = (FFT - WINDOW) // 2
    window[begin : begin + WINDOW] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    padded = np.pad(audio.astype(np.float64), FFT // 2, mode="reflect")
    count = 1 + len(audio) // HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][:count]
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=-1)))
    return ((np.log(1e-5 + power @ filterbank().astype(np.float64)) - MEAN) / DEVIATION).astype(np.float32)


def trim_reference(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return a recording without the silence around it, float32 [samples] at 24 kHz.

    Args:
      audio: mono float [samples].
      sample_rate: its rate in Hz.

    Raises:
      StyleTTS2Error: not mono, not finite, or silent.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise StyleTTS2Error(f"a reference is finite mono sound, not an array of shape {audio.shape}")
    if sample_rate != SAMPLE_RATE:
        audio = librosa.resample(audio, orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    if not audio.size or not np.abs(audio).max() > 0:
        raise StyleTTS2Error("the reference is silent")
    return librosa.effects.trim(audio, top_db=TRIM_DB)[0]


def pad_reference(audio: np.ndarray) -> np.ndarray:
    """Return sound [samples] at 24 kHz with silence at both ends where it is shorter than the encoder needs, 0.8 s.

    Upstream puts silence around every recording in training, so the encoder knows it.
    """
    lacking = max(0, (MIN_FRAMES - 1) * HOP - len(audio))
    return np.pad(audio, (lacking // 2, lacking - lacking // 2))


# Log-mel -> style -----------------------------------------------------------------------------------------------------


class DownSample(nnx.Module):
    """Depthwise convolution of stride 2 (upstream's downsample_res)."""

    def __init__(self, width: int):
        self.conv = Conv(width, width, (3, 3), stride=2, padding=1, groups=width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


def column_mask(lengths: jax.Array, size: int) -> jax.Array:
    """Return bool [B, 1, size, 1], true at the frames below `lengths` int [B]."""
    return length_mask(lengths, size)[:, None]


class ResBlk(nnx.Module):
    """Residual block that halves both axes, [B, mel, T, C] -> [B, mel / 2, ceil(T / 2), C']; 0 on padding."""

    def __init__(self, width_in: int, width_out: int):
        self.conv1 = Conv(width_in, width_in, (3, 3), padding=1)
        self.conv2 = Conv(width_in, width_out, (3, 3), padding=1)
        self.downsample_res = DownSample(width_in)
        self.conv1x1 = nnx.data(None)
        if width_in != width_out:
            self.conv1x1 = Conv(width_in, width_out, (1, 1), bias=False)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the halved x and its true frames [B], for x [B, mel, T, C], T even, with true frames `lengths` [B]."""
        mask, half_lengths = column_mask(lengths, x.shape[2]), (lengths + 1) // 2
        half_mask = column_mask(half_lengths, x.shape[2] // 2)
        shortcut = x if self.conv1x1 is None else self.conv1x1(x)
        # Before halving an odd length, upstream repeats the last column.
        column = jnp.arange(x.shape[2])[None, None, :, None]
        end = lengths[:, None, None, None]
        shortcut = jnp.where((column == end) & (end % 2 == 1), jnp.roll(shortcut, 1, axis=2), shortcut)
        batch, mels, frames, width = shortcut.shape
        shortcut = shortcut.reshape(batch, mels // 2, 2, frames // 2, 2, width).mean(axis=(2, 4))
        x = self.downsample_res(jnp.where(mask, self.conv1(jnp.where(mask, leaky_relu(x), 0)), 0))
        x = self.conv2(jnp.where(half_mask, leaky_relu(x), 0))
        return jnp.where(half_mask, (shortcut + x) / math.sqrt(2), 0), half_lengths


class StyleEncoder(nnx.Module):
    """Style vector of 128, for acoustics or for prosody (upstream's StyleEncoder, 13.8M parameters each).

    Convolutions without norms, the mean over time, and a linear map.
    """

    def __init__(self, config: StyleTTS2Config):
        widths = [min(config.dim_in * 2**power, config.max_conv_dim) for power in range(5)]
        blocks = [ResBlk(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        # upstream's Sequential: 0 the first convolution, 1 to 4 blocks, 5 and 8 activations, 6 the last convolution
        layers: dict[str, Any] = {"0": Conv(1, widths[0], (3, 3), padding=1)}
        layers |= {str(number): block for number, block in enumerate(blocks, 1)}
        layers["6"] = Conv(widths[-1], widths[-1], (5, 5))
        self.shared = nnx.Dict(layers)
        self.unshared = Linear(widths[-1], config.style_dim)

    def __call__(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the style [B, 128] of log-mels [B, T, 80] with true frames `lengths` [B] >= 65."""
        padding = -mel.shape[1] % 16  # so that the number of columns is even at every halving
        mel = jnp.pad(jnp.where(length_mask(lengths, mel.shape[1]), mel, 0), ((0, 0), (0, padding), (0, 0)))
        x = self.shared["0"](jnp.swapaxes(mel, 1, 2)[..., None])  # [B, 80, T, C]
        x = jnp.where(column_mask(lengths, x.shape[2]), x, 0)
        for number in range(1, 5):
            x, lengths = self.shared[str(number)](x, lengths)
        x = self.shared["6"](leaky_relu(x))
        count = lengths - 4  # a window of 5 without padding
        x = jnp.where(column_mask(count, x.shape[2]), x, 0)
        mean = jnp.sum(x, axis=(1, 2)) / (x.shape[1] * count[:, None]).astype(x.dtype)
        return self.unshared(leaky_relu(mean))
