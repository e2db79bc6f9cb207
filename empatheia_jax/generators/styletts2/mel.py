"""The log-mel spectrogram that the style encoders read, as in StyleTTS 2's training."""

import functools

import numpy as np

SAMPLE_RATE, FFT, WINDOW, HOP, MELS = 24_000, 2048, 1200, 300, 80
FILTERBANK_RATE = 16_000
"""The bands are those of 16 kHz audio although the audio is 24 kHz: upstream never passes the rate, in training too."""
MEAN, DEVIATION = -4.0, 4.0


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
