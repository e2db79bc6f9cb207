"""The classical S_speech: nine numbers of order 1 that say how something was spoken, measured from the recording.

The words must not leak into the style: each recording is compared with the *reference rendering*, the same phonemes
spoken by one neutral voice at one pitch, range, rate and loudness. The dimensions, all 0 for the reference rendering:

  f0_level      mean voiced F0 above the reference's, semitones / 6
  f0_range      log of the spread of F0 (standard deviation in semitones) over the reference's, / 0.4
  rate          log of the reference's duration (first to last sound) over the recording's, / 0.2
  energy        RMS of the sounding frames over the reference's, dB / 5
  tilt          slope of (long-term spectrum - reference's), dB per octave / 2; above 0: bright
  voice_1..4    that difference's slower ripples: coefficients of cos(k pi u), k = 2..5, over the mel scale u, dB / 2.
                Vocal tracts differ in them; the eight voices lie at -1 or 1 (`voices.voice_coordinates`)

Tilt and voice are fitted together, by least squares over bands.
"""

import dataclasses
import functools

import numpy as np
import soxr

from empatheia_jax.generators.classical import measure
from empatheia_jax.generators.classical.espeak import Rendering, VoiceSpec, espeak
from empatheia_jax.generators.classical.measure import BAND_EDGES, Analysis, analyse
from empatheia_jax.generators.classical.timing import Script, write_script
from empatheia_jax.generators.phonemes import decode

SAMPLE_RATE = 24000
STYLE_NAMES = (
    "f0_level",
    "f0_range",
    "rate",
    "energy",
    "tilt",
    "voice_1",
    "voice_2",
    "voice_3",
    "voice_4",
)
STYLE_DIM = len(STYLE_NAMES)
F0_LEVEL, F0_RANGE, RATE, ENERGY, TILT = range(5)
VOICE = slice(5, STYLE_DIM)
SPECTRAL = slice(TILT, STYLE_DIM)
UNITS = np.array([6.0, 0.4, 0.2, 5.0, 2.0, 2.0, 2.0, 2.0, 2.0])
"""One unit of each dimension in semitones, log ratio, log ratio, dB, dB per octave, dB."""
STYLE_LIMIT = 4.0
"""Styles are clipped to -4..4: real recordings may lie far outside the voices this generator has."""

REFERENCE_VOICE = VoiceSpec("reference", (104,) * 9, (100,) * 9)
REFERENCE_LOW, REFERENCE_HIGH, REFERENCE_RATE = 135.0, 200.0, 175.0  # Hz, Hz, words a minute
_REFERENCE_GAIN_DB = -8.0  # espeak is loud; this leaves room for speech that is louder than the reference
_RIPPLES = (2, 3, 4, 5)
_RIDGE = 0.5


class VoiceError(ValueError):
    """Speech that cannot be synthesised or measured; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of a recording, in plain units."""

    f0: float  # mean of the voiced F0, semitones above 100 Hz; NaN: nothing is voiced
    spread: float  # standard deviation of the voiced F0, semitones; NaN: nothing is voiced
    seconds: float  # from the first to the last sound
    level: float  # dB of full scale, RMS of the sounding frames
    power: np.ndarray  # [bins], mean power spectrum at 24 kHz


@dataclasses.dataclass(frozen=True)
class Reference:
    """Phonemes spoken by the reference voice, and what is measured of that."""

    ipa: str  # the phonemes as text
    script: Script
    rendering: Rendering
    measures: Measures


def measures_from(analysis: Analysis) -> Measures:
    """Return what the style needs of an analysis."""
    f0, spread = measure.f0_statistics(analysis)
    return Measures(f0, spread, analysis.end - analysis.start, analysis.level, analysis.power)


def to_24k(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample float32 [samples] to 24 kHz."""
    audio = np.asarray(audio, np.float32)
    return audio if sample_rate == SAMPLE_RATE else soxr.resample(audio, sample_rate, SAMPLE_RATE, quality="HQ")


def speak_reference(phonemes: np.ndarray) -> Reference:
    """Return the reference rendering of symbol ids [P]; the last 64 are kept.

    Raises:
      VoiceError: no symbol has a sound.
    """
    return _speak_reference(decode(phonemes))


@functools.lru_cache(maxsize=64)
def _speak_reference(ipa: str) -> Reference:
    script = write_script(ipa)
    if not script.units:
        raise VoiceError(f"no phoneme of {ipa[:40]!r} has a sound: give phonemes of an English text")
    rendering = espeak().synth(script.markup, REFERENCE_VOICE, REFERENCE_LOW, REFERENCE_HIGH, rate=REFERENCE_RATE)
    measures = measures_from(analyse(to_24k(rendering.audio, rendering.sample_rate), SAMPLE_RATE))
    measures = dataclasses.replace(measures, level=measures.level + _REFERENCE_GAIN_DB)
    return Reference(ipa, script, rendering, measures)


def measure_style(audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
    """Measure the S_speech of a recording whose phonemes are known, as the module's docstring says.

    Args:
      audio: float [samples] in -1..1.
      sample_rate: Hz.
      phonemes: symbol ids [P].

    Returns:
      float32 [STYLE_DIM].

    Raises:
      MeasureError: the recording is empty or silent.
      VoiceError: no phoneme has a sound.
    """
    measures = measures_from(analyse(to_24k(audio, sample_rate), SAMPLE_RATE))
    return compare(measures, speak_reference(phonemes).measures, sample_rate / 2)


def compare(measures: Measures, reference: Measures, bandwidth: float = SAMPLE_RATE / 2) -> np.ndarray:
    """Return the style float32 [STYLE_DIM] of a recording, against the reference rendering of its phonemes.

    Args:
      measures: of the recording, at 24 kHz.
      reference: of the reference rendering.
      bandwidth: half the recording's own sample rate, Hz; bands above it hold nothing and are left out.
    """
    f0 = measures.f0 - reference.f0 if np.isfinite(measures.f0) and np.isfinite(reference.f0) else 0.0
    spread = _log_ratio(measures.spread, reference.spread)
    rate = _log_ratio(reference.seconds, measures.seconds)
    shape = spectral_shape(measures.power, reference.power, bandwidth)
    style = np.array([f0, spread, rate, measures.level - reference.level, *shape]) / UNITS
    return np.clip(style, -STYLE_LIMIT, STYLE_LIMIT).astype(np.float32)


def spectral_shape(power: np.ndarray, reference: np.ndarray, bandwidth: float = SAMPLE_RATE / 2) -> np.ndarray:
    """Return tilt (dB per octave) and ripples (dB), [5], of one mean power spectrum over another.

    Args:
      power: mean power spectrum [bins] at 24 kHz.
      reference: the one it is compared with, [bins] at 24 kHz.
      bandwidth: Hz, bands above it are left out.
    """
    known = int(np.sum(BAND_EDGES[1:] <= bandwidth * 0.96))  # resampling fades the last 4 per cent
    difference = measure.band_levels(power, SAMPLE_RATE) - measure.band_levels(reference, SAMPLE_RATE)
    return _shape_fit(known) @ difference[:known]


def shape_gain(shape: np.ndarray) -> np.ndarray:
    """Return the curve [bins], in dB at the bins of a 24 kHz analysis, that has tilt and ripples `shape` [5]."""
    return _bin_basis() @ shape


@functools.cache
def _bin_basis() -> np.ndarray:
    return _shape_basis(measure.bin_frequencies(SAMPLE_RATE))


def _shape_basis(frequency: np.ndarray) -> np.ndarray:
    """Return octaves from 1 kHz and ripples [N, 5] at `frequency` [N] Hz, constant outside 100 Hz to the last band."""
    frequency = np.clip(frequency, 100.0, BAND_EDGES[-1])
    low, high = _mel(BAND_EDGES[0]), _mel(BAND_EDGES[-1])
    u = (_mel(frequency) - low) / (high - low)
    return np.stack([np.log2(frequency / 1000.0), *(np.cos(k * np.pi * u) for k in _RIPPLES)], -1)


def _mel(frequency):
    return np.log1p(np.asarray(frequency) / 700.0)


@functools.cache
def _shape_fit(bands: int) -> np.ndarray:
    """Return the least-squares map [5, bands] from the levels of the lowest bands to the shape, without the constant.

    A small ridge keeps the ripples of narrow-band recordings, of which too little is seen, from running away.
    """
    centres = np.sqrt(BAND_EDGES[1:] * BAND_EDGES[:-1])[:bands]
    basis = np.concatenate([_shape_basis(centres), np.ones((bands, 1))], axis=1)
    ridge = np.diag([_RIDGE] * (basis.shape[1] - 1) + [0.0])
    return np.linalg.solve(basis.T @ basis + ridge, basis.T)[:-1]


def _log_ratio(numerator: float, denominator: float) -> float:
    if not (np.isfinite(numerator) and np.isfinite(denominator)):
        return 0.0
    return float(np.log(max(numerator, 1e-2) / max(denominator, 1e-2)))
