"""Low-level description of speech every 10 ms: F0, voicing, energy, spectral tilt, log-mel. Numpy only, no fitting.

F0 is YIN (de Cheveigne and Kawahara, 2002): the difference function through FFTs for all frames at once, its
cumulative mean normalisation, the first dip under a threshold, parabolic refinement.
"""

import dataclasses
import functools

import numpy as np

SAMPLE_RATE = 16000
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms: the STFT window and YIN's integration window
F0_MIN, F0_MAX = 60.0, 600.0  # Hz
LAG_MIN, LAG_MAX = int(SAMPLE_RATE / F0_MAX), int(SAMPLE_RATE / F0_MIN) + 1
MELS = 40
MEL_LOW, MEL_HIGH = 60.0, 7600.0  # Hz
FLOOR_DB = -90.0  # level of silence: just above the quantisation noise of 16 bits
MEL_FLOOR_DB = -60.0  # lowest level of a band relative to the frame's energy

_DIP = 0.15  # YIN's threshold: the first lag whose dip is deeper is the period
_VOICED = 0.35  # a frame whose best dip is shallower than this is unvoiced
_GATE_DB = 35.0  # a frame this far under the loudest is silence
_SPAN = WINDOW + LAG_MAX + 1  # samples that a frame needs


@dataclasses.dataclass(frozen=True)
class VoiceFrames:
    """Measures of an utterance's T frames, 10 ms apart."""

    f0: np.ndarray  # float32 [T] Hz; in unvoiced frames interpolated between voiced ones; 0 everywhere if none is
    voiced: np.ndarray  # bool [T]
    periodicity: np.ndarray  # float32 [T] 0 (noise) .. 1 (periodic)
    active: np.ndarray  # bool [T] within 35 dB of the loudest frame, and not silence
    energy: np.ndarray  # float32 [T] dB relative to full scale
    tilt: np.ndarray  # float32 [T] dB per octave between 500 and 6000 Hz
    mel: np.ndarray  # float32 [T, MELS] dB relative to the frame's own energy, floored


def voice_frames(audio: np.ndarray) -> VoiceFrames:
    """Measure audio float32 [samples] at 16 kHz, every 10 ms; T = ceil(samples / 160), at least 1."""
    count = max(1, -(-len(audio) // HOP))
    frames = _cut_frames(audio, count)
    middle = (_SPAN - WINDOW) // 2
    mel_power = _mel_power(frames[:, middle : middle + WINDOW])
    energy = _decibel(np.mean(np.square(frames[:, middle : middle + WINDOW], dtype=np.float64), axis=1))
    active = (energy > energy.max() - _GATE_DB) & (energy > FLOOR_DB + 15.0)
    f0, depth = _yin(frames)
    voiced = (depth < _VOICED) & active
    # Relative to the frame's own energy, so that shape and tilt do not depend on the level; silence is flat.
    mel = np.maximum(_decibel(mel_power) - _decibel(mel_power.sum(axis=1, keepdims=True)), MEL_FLOOR_DB)
    return VoiceFrames(
        f0=_smooth(f0, voiced),
        voiced=voiced,
        periodicity=np.where(active, 1.0 - np.minimum(depth, 1.0), 0.0).astype(np.float32),
        active=active,
        energy=np.maximum(energy, FLOOR_DB).astype(np.float32),
        tilt=_tilt(mel).astype(np.float32),
        mel=mel.astype(np.float32),
    )


def _cut_frames(audio: np.ndarray, count: int) -> np.ndarray:
    """Return overlapping frames float32 [T, _SPAN], centred every HOP samples; zeros beyond the ends."""
    before = _SPAN // 2
    padded = np.zeros((count - 1) * HOP + HOP // 2 + 2 * before + HOP, np.float32)
    padded[before : before + len(audio)] = audio[: len(padded) - before]
    return np.lib.stride_tricks.sliding_window_view(padded, _SPAN)[HOP // 2 :: HOP][:count]


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, 1e-12))


def _hz_to_mel(hz):
    return 2595.0 * np.log10(1.0 + np.asarray(hz, np.float64) / 700.0)


def mel_centres() -> np.ndarray:
    """Return the centre frequencies in Hz [MELS] of the triangular filters (HTK's mel scale)."""
    points = np.linspace(_hz_to_mel(MEL_LOW), _hz_to_mel(MEL_HIGH), MELS + 2)
    return (700.0 * (10.0 ** (points / 2595.0) - 1.0))[1:-1]


@functools.cache
def _mel_filters() -> np.ndarray:
    """Return triangular filters float32 [WINDOW / 2 + 1, MELS], peak 1, evenly spaced in mel."""
    points = np.linspace(_hz_to_mel(MEL_LOW), _hz_to_mel(MEL_HIGH), MELS + 2)
    bins = _hz_to_mel(np.arange(512 // 2 + 1) * SAMPLE_RATE / 512)[:, None]
    rise = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    fall = (points[2:] - bins) / (points[2:] - points[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)


def _mel_power(frames: np.ndarray) -> np.ndarray:
    window = np.hanning(WINDOW).astype(np.float32)
    spectrum = np.fft.rfft(frames * window, n=512, axis=1)
    # Normalised so that a frame's total is about its mean square.
    power = (spectrum.real**2 + spectrum.imag**2) * (2.0 / (512 * float(np.sum(window**2))))
    return power.astype(np.float32) @ _mel_filters()


@functools.cache
def _tilt_weights() -> np.ndarray:
    """Return weights [MELS] of the least-squares slope over log2 frequency of the bands between 500 and 6000 Hz."""
    octave = np.log2(mel_centres())
    in_band = (mel_centres() >= 500.0) & (mel_centres() <= 6000.0)
    centred = np.where(in_band, octave - octave[in_band].mean(), 0.0)
    return centred / np.sum(centred**2)


def _tilt(mel_db: np.ndarray) -> np.ndarray:
    return mel_db @ _tilt_weights()


def _yin(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F0 in Hz [T] and the depth of the dip [T] (0: perfectly periodic) of frames [T, _SPAN]."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    lags = LAG_MAX + 1
    head = np.fft.rfft(frames[:, :WINDOW], n=1024, axis=1)
    full = np.fft.rfft(frames, n=1024, axis=1)
    correlation = np.fft.irfft(np.conj(head) * full, n=1024, axis=1)[:, :lags]
    sums = np.cumsum(np.square(frames, dtype=np.float64), axis=1)
    sums = np.concatenate([np.zeros((len(frames), 1)), sums], axis=1)
    shifted = sums[:, WINDOW : WINDOW + lags] - sums[:, :lags]  # energy of x[lag : lag + WINDOW]
    difference = np.maximum(shifted[:, :1] + shifted - 2.0 * correlation, 0.0)
    mean = np.cumsum(difference[:, 1:], axis=1) / np.arange(1, lags)
    normalised = difference[:, 1:] / np.maximum(mean, 1e-9)  # [T, LAG_MAX], entry i is lag i + 1
    normalised = np.where(mean > 1e-9, normalised, 1.0)

    inner = normalised[:, LAG_MIN - 1 : -1]  # lags LAG_MIN .. LAG_MAX - 1, each with both neighbours
    left, right = normalised[:, LAG_MIN - 2 : -2], normalised[:, LAG_MIN:]
    dip = (inner < _DIP) & (inner <= left) & (inner < right)
    best = np.where(dip.any(axis=1), dip.argmax(axis=1), inner.argmin(axis=1))
    frame = np.arange(len(frames))
    before, after, depth = left[frame, best], right[frame, best], inner[frame, best]
    curvature = before - 2.0 * depth + after
    offset = np.where(curvature > 1e-9, 0.5 * (before - after) / np.maximum(curvature, 1e-9), 0.0)
    return SAMPLE_RATE / (best + LAG_MIN + np.clip(offset, -0.5, 0.5)), depth


def _smooth(f0: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Return F0 median-filtered over 5 voiced frames (against octave errors), log-interpolated over unvoiced ones."""
    if not voiced.any():
        return np.zeros(len(f0), np.float32)
    voiced_frames = np.nonzero(voiced)[0]
    values = np.pad(np.log(f0[voiced_frames]), 2, mode="edge")
    values = np.median(np.lib.stride_tricks.sliding_window_view(values, 5), axis=1)
    return np.exp(np.interp(np.arange(len(f0)), voiced_frames, values)).astype(np.float32)
