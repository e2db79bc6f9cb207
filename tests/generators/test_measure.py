"""Measurements against synthetic signals whose F0, level and spectrum are known by construction."""

import numpy as np
import pytest

from empatheia_jax.generators.classical import measure
from empatheia_jax.generators.phonemes import encode


def buzz(f0: float, rate: int, seconds: float = 1.0, slope: float = -6.0) -> np.ndarray:
    """Harmonics of `f0` up to 5 kHz falling by `slope` dB per octave."""
    time = np.arange(int(seconds * rate)) / rate
    harmonics = np.arange(1, int(min(5000, rate / 2.2) / f0) + 1)
    amplitude = 10 ** (slope * np.log2(harmonics) / 20)
    wave = (amplitude[:, None] * np.sin(2 * np.pi * f0 * harmonics[:, None] * time + harmonics[:, None])).sum(0)
    return (0.2 * wave / wave.std()).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("f0", [75.0, 118.0, 205.0, 330.0, 440.0])
def test_f0_of_a_buzz(f0, rate):
    noise = np.random.default_rng(0).normal(scale=0.01, size=rate).astype(np.float32)
    assert abs(12 * np.log2(measure.measure_f0(buzz(f0, rate) + noise, rate) / f0)) < 0.2


def test_noise_has_no_f0():
    noise = np.random.default_rng(0).normal(scale=0.1, size=24000).astype(np.float32)
    voiced = np.isfinite(measure.analyse(noise, 24000).f0)
    assert voiced.mean() < 0.1


def test_sound_between_silences_is_found_and_its_level():
    silence = np.zeros(12000, np.float32)
    analysis = measure.analyse(np.concatenate([silence, buzz(150, 24000), silence]), 24000)
    assert analysis.start == pytest.approx(0.5, abs=0.02) and analysis.end == pytest.approx(1.5, abs=0.02)
    assert analysis.level == pytest.approx(20 * np.log10(0.2), abs=0.5)


def test_spread_of_a_glide():
    rate, octave = 24000, np.linspace(0, 1, 48000)
    phase = 2 * np.pi * np.cumsum(120 * 2**octave) / rate
    audio = sum(np.sin(k * phase) / k for k in range(1, 9)).astype(np.float32) * 0.2
    mean, spread = measure.f0_statistics(measure.analyse(audio, rate))
    assert mean == pytest.approx(12 * np.log2(1.2) + 6, abs=0.2)
    assert spread == pytest.approx(12 / np.sqrt(12), abs=0.2)


def test_syllables_per_second_counts_vowels_over_the_sounding_part():
    phonemes = encode("ɐnˈʌðɚ bjˈuːɾɪfəl dˈeɪ , ɪznt ɪt ?")
    assert measure.count_syllables(phonemes) == 9  # a-no-ther beau-ti-ful day is(n)t it
    audio = np.concatenate([np.zeros(24000, np.float32), buzz(150, 24000, 2.0)])
    assert measure.syllables_per_second(audio, 24000, phonemes) == pytest.approx(4.5, rel=0.02)


@pytest.mark.parametrize(
    "audio, reason",
    [
        (np.zeros(0), "at least one sample"),
        (np.zeros(24000), "silent"),
        (np.zeros((2, 100)), "mono"),
        (np.full(100, np.nan), "finite"),
    ],
)
def test_a_recording_without_speech_is_refused(audio, reason):
    with pytest.raises(measure.MeasureError, match=reason):
        measure.analyse(audio, 24000)
