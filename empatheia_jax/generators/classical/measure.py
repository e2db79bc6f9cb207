"""Acoustic measurements of a recording: F0, activity, loudness and spectrum, from one short-time Fourier transform.

They measure the style of speech and, independently of any style vector, serve tests and evaluation.
"""

import dataclasses
import functools
from typing import cast

import numpy as np
import scipy.fft

from empatheia_jax.generators.classical.timing import VOWELS
from empatheia_jax.generators.phonemes import decode

FRAME_SECONDS, HOP_SECONDS = 0.04, 0.02
BLOCK_SECONDS = 0.005  # of the loudness contour that tells where sound starts and ends
MIN_F0, MAX_F0 = 60.0, 520.0
_PITCH_BAND = 1400.0  # Hz; the periodicity of voice is searched below
_MEDIAN_OCTAVES = 0.7  # F0 further than this from the median is taken for an octave error
_VOICED = 0.6  # least normalised autocorrelation of a voiced frame
_ACTIVE_DB = 35.0  # frames this far under the loudest are silence
BAND_EDGES = np.array(
    [60, 400, 650, 900, 1150, 1400, 1700, 2000, 2350, 2700, 3100, 3500, 4000, 4600, 5300, 6100, 7100, 8300, 9800], float
)
"""Hz. Bands are wide enough that a child's harmonics, 300 Hz apart, do not fall between them."""
BANDS = len(BAND_EDGES) - 1


class MeasureError(ValueError):
    """A recording in which nothing can be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `analyse` measures."""

    f0: np.ndarray  # float32 [frames] Hz, a frame every `HOP_SECONDS`; NaN where unvoiced or silent
    start: float  # seconds, first sound
    end: float  # seconds, end of the last sound
    level: float  # dB of full scale, RMS of the active frames
    power: np.ndarray  # float32 [bins], mean power spectrum of the active frames, at `bin_frequencies(sample_rate)`


def analyse(audio: np.ndarray, sample_rate: int) -> Analysis:
    """Analyse a mono recording.

    Args:
      audio: float [samples] in -1..1.
      sample_rate: Hz, at least 4000.

    Raises:
      MeasureError: the recording is empty, not mono, not finite or silent, or its sample rate is too low.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or audio.size == 0:
        raise MeasureError(f"a recording must be mono with at least one sample, not of shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise MeasureError("the recording holds values that are not finite")
    if np.abs(audio).max() < 1e-4:
        raise MeasureError("the recording is silent: give one with speech")
    plan = _plan(sample_rate)
    frames = _to_frames(audio - audio.mean(), plan)
    energy, active = _active_frames(frames)
    transform = np.asarray(scipy.fft.rfft(frames[active] * plan.window, plan.fft))[:, : plan.bands.shape[0]]
    power = np.real(transform) ** 2 + np.imag(transform) ** 2
    f0 = np.full(len(frames), np.nan, np.float32)
    f0[active] = _track_f0(power, plan)
    start, end = _sounding_span(audio, sample_rate)
    return Analysis(
        f0=f0,
        start=start,
        end=end,
        level=float(10 * np.log10(energy[active].mean())),
        power=power.mean(0),
    )


def sounding_level(audio: np.ndarray, sample_rate: int) -> float:
    """Return `Analysis.level` alone: RMS of the active frames in dB of full scale."""
    energy, active = _active_frames(_to_frames(audio - audio.mean(), _plan(sample_rate)))
    return float(10 * np.log10(energy[active].mean()))


def bin_frequencies(sample_rate: int) -> np.ndarray:
    """Return the frequencies [bins], Hz, of `Analysis.power`."""
    return _plan(sample_rate).frequency


def band_levels(power: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the levels dB [BANDS] of a mean power spectrum [bins]."""
    return 10 * np.log10(np.maximum(power @ _plan(sample_rate).bands, 1e-12))


def f0_statistics(analysis: Analysis) -> tuple[float, float]:
    """Return mean and standard deviation of the voiced F0, semitones above 100 Hz; NaN below 5 voiced frames."""
    voiced = analysis.f0[np.isfinite(analysis.f0)]
    if len(voiced) < 5:
        return float("nan"), float("nan")
    semitones = 12 * np.log2(voiced / 100.0)
    return float(semitones.mean()), float(semitones.std())


def measure_f0(audio: np.ndarray, sample_rate: int) -> float:
    """Return the median voiced F0 in Hz; NaN where nothing is voiced."""
    voiced = analyse(audio, sample_rate).f0
    voiced = voiced[np.isfinite(voiced)]
    return float(np.median(voiced)) if len(voiced) else float("nan")


def count_syllables(phonemes: np.ndarray) -> int:
    """Count vowel nuclei (and syllabic consonants) in symbol ids [P]."""
    ipa, count, position = decode(phonemes), 0, 0
    while position < len(ipa):
        length = next((n for n in (3, 2, 1) if ipa[position : position + n] in _NUCLEI), 0)
        count += bool(length)
        position += max(length, 1)
    return count


def syllables_per_second(audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> float:
    """Return the syllables of `phonemes` [P] over the seconds from the first to the last sound of the recording."""
    analysis = analyse(audio, sample_rate)
    return count_syllables(phonemes) / max(analysis.end - analysis.start, HOP_SECONDS)


_NUCLEI = (set(VOWELS) - {"əl"}) | {"a", "e", "o", "ɑ", "ɒ", "ɜ", "ɝ", "ɨ", "\N{COMBINING VERTICAL LINE BELOW}"}


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Everything of an analysis that depends on the sample rate only."""

    length: int
    hop: int
    fft: int
    window: np.ndarray  # [length]
    frequency: np.ndarray  # [bins] Hz
    bands: np.ndarray  # [bins, BANDS]
    taper: np.ndarray  # [pitch bins], keeps the band in which periodicity is searched
    first_lag: int  # lags are in steps of 2 samples
    shape: np.ndarray  # [lags], the window's own autocorrelation


@functools.lru_cache(maxsize=8)
def _plan(sample_rate: int) -> _Plan:
    if sample_rate < 4000:
        raise MeasureError(f"a sample rate of {sample_rate} Hz is too low for speech: 4000 at least")
    length, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    fft = 2 * cast(int, scipy.fft.next_fast_len((length + round(sample_rate / MIN_F0)) // 2 + 1, real=True))
    frequency = np.arange(min(fft // 2 + 1, int(BAND_EDGES[-1] * fft / sample_rate) + 2)) * sample_rate / fft
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    bands = np.stack(
        [((frequency >= low) & (frequency < high)) for low, high in zip(BAND_EDGES, BAND_EDGES[1:], strict=False)], 1
    ).astype(np.float32)
    bands /= np.maximum(bands.sum(0), 1)
    pitch_bins = int(_PITCH_BAND * fft / sample_rate)
    # the constant and the rumble below any voice are left out; above, the band fades
    low, high = frequency[:pitch_bins] / 50.0 - 0.5, (_PITCH_BAND - frequency[:pitch_bins]) / 400.0
    taper = np.clip(low, 0, 1) * np.clip(high, 0, 1)
    first_lag, last_lag = int(sample_rate / MAX_F0 / 2) - 1, int(sample_rate / MIN_F0 / 2) + 2
    overlap = np.correlate(window, window, "full")[length - 1 :: 2]
    shape = overlap[first_lag:last_lag] / overlap[0]
    taper, shape = taper.astype(np.float32), shape.astype(np.float32)
    return _Plan(length, hop, fft, window, frequency, bands, taper, first_lag, shape)


def _to_frames(audio: np.ndarray, plan: _Plan) -> np.ndarray:
    """Return frames [frames, length] (a view), centred on multiples of the hop."""
    padded = np.pad(audio, (plan.length // 2, plan.length))
    count = len(audio) // plan.hop + 1
    return np.lib.stride_tricks.sliding_window_view(padded, plan.length)[: count * plan.hop : plan.hop]


def _sounding_span(audio: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Return the first and last moment (seconds) louder than 35 dB under the loudest block."""
    block = max(round(BLOCK_SECONDS * sample_rate), 1)
    count = -(-len(audio) // block)
    energy = (np.pad(audio, (0, count * block - len(audio))).reshape(count, block) ** 2).mean(1)
    first, last = np.nonzero(energy > energy.max() * 10 ** (-_ACTIVE_DB / 10))[0][[0, -1]]
    return first * block / sample_rate, min((last + 1) * block, len(audio)) / sample_rate


def _active_frames(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean square of each frame, and which frames are less than 35 dB under the loudest."""
    energy = np.maximum(np.einsum("fs,fs->f", frames, frames) / frames.shape[1], 1e-12)
    return energy, energy > max(energy.max() * 10 ** (-_ACTIVE_DB / 10), 1e-8)


def _track_f0(power: np.ndarray, plan: _Plan) -> np.ndarray:
    """Return F0 [frames], Hz, NaN where unvoiced: peaks of the autocorrelation over the window's own (Boersma 1993).

    A first pass gives a median; in the second only peaks near it count, which removes octave errors.
    """
    # half the transform's length is enough for a band this narrow: lags come in steps of 2 samples
    correlation = np.asarray(scipy.fft.irfft(power[:, : len(plan.taper)] * plan.taper, plan.fft // 2))
    lags = slice(plan.first_lag, plan.first_lag + len(plan.shape))
    correlation = correlation[:, lags] / np.maximum(correlation[:, :1], 1e-12) / plan.shape
    inner = correlation[:, 1:-1]
    peak = (inner >= correlation[:, :-2]) & (inner > correlation[:, 2:])
    height = np.where(peak, np.minimum(inner, 1.0), -1.0)
    rough, is_voiced = _shortest_high_lag(height, 0.92), height.max(1) > _VOICED
    if not is_voiced.any():
        return np.full(len(power), np.nan, np.float32)
    steps = plan.first_lag + 1 + np.arange(inner.shape[1])
    octaves = np.log2(steps / np.median(steps[rough[is_voiced]]))
    height = np.where(np.abs(octaves) < _MEDIAN_OCTAVES, height, -1.0)
    best = _shortest_high_lag(height, 0.98)
    rows = np.arange(len(height))
    left, middle, right = correlation[rows, best], inner[rows, best], correlation[rows, best + 2]
    curve = left - 2 * middle + right
    shift = np.where(np.abs(curve) > 1e-9, 0.5 * (left - right) / np.where(curve == 0, 1, curve), 0.0)
    lag = 2 * (steps[best] + np.clip(shift, -1, 1))
    rate = plan.hop / HOP_SECONDS
    return np.where(height[rows, best] > _VOICED, rate / lag, np.nan).astype(np.float32)


def _shortest_high_lag(height: np.ndarray, share: float) -> np.ndarray:
    """Return the column [frames] of the shortest lag with `share` of the best's height; multiples of it peak too."""
    return np.argmax(height >= np.maximum(height.max(1) * share, 1e-6)[:, None], axis=1)
