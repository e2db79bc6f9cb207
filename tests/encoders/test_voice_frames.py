"""F0, voicing, energy and tilt of synthetic signals whose values are known."""

import numpy as np
import pytest

from empatheia_jax.encoders.voice_frames import HOP, SAMPLE_RATE, mel_centres, voice_frames


def harmonic(f0: np.ndarray, slope_db: float = -6.0, level: float = 0.1) -> np.ndarray:
    """Return a voice-like sum of harmonics with contour f0 [samples] in Hz, falling by `slope_db` an octave."""
    phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
    audio = sum(10 ** (slope_db * np.log2(k) / 20) * np.sin(k * phase) * (k * f0 < 7000) for k in range(1, 60))
    return (level * audio / np.abs(audio).max()).astype(np.float32)


@pytest.mark.parametrize("hertz", [75.0, 110.0, 163.0, 240.0, 377.0, 520.0])
def test_f0_of_steady_voice(hertz):
    frames = voice_frames(harmonic(np.full(SAMPLE_RATE, hertz)))
    assert frames.voiced.mean() > 0.9
    assert np.abs(12 * np.log2(frames.f0 / hertz)).max() < 0.2  # semitones


def test_f0_follows_a_glide():
    contour = np.geomspace(100.0, 300.0, 2 * SAMPLE_RATE)
    frames = voice_frames(harmonic(contour))
    expected = contour[HOP // 2 :: HOP]
    inner = slice(10, -10)
    assert np.abs(12 * np.log2(frames.f0 / expected))[inner].max() < 0.5


def test_f0_of_a_wandering_voice_in_noise():
    rng = np.random.default_rng(3)
    contour = 170.0 * 2 ** (np.interp(np.arange(2 * SAMPLE_RATE), np.linspace(0, 32000, 9), rng.normal(0, 0.4, 9)))
    audio = harmonic(contour) + rng.normal(0, 0.002, len(contour)).astype(np.float32)
    error = np.abs(12 * np.log2(voice_frames(audio).f0 / contour[HOP // 2 :: HOP]))
    assert np.median(error) < 0.1 and np.quantile(error, 0.98) < 1.0


def test_noise_and_silence_are_unvoiced():
    noise = np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32)
    assert voice_frames(noise).voiced.mean() < 0.05
    silent = voice_frames(np.zeros(SAMPLE_RATE, np.float32))
    assert not silent.voiced.any() and not silent.active.any() and not silent.f0.any()


def test_unvoiced_gap_is_bridged():
    audio = harmonic(np.concatenate([np.full(SAMPLE_RATE // 2, 120.0), np.full(SAMPLE_RATE // 2, 180.0)]))
    audio[6400:9600] = 0.0
    frames = voice_frames(audio)
    assert not frames.voiced[44:56].any()
    assert np.all((frames.f0[44:56] > 119) & (frames.f0[44:56] < 181)) and np.all(np.diff(frames.f0[44:56]) >= 0)


def test_energy_in_decibels():
    audio = harmonic(np.full(SAMPLE_RATE, 200.0))
    loud, soft = voice_frames(audio), voice_frames(audio / 10)
    rms = 20 * np.log10(np.sqrt(np.mean(audio**2)))
    assert abs(np.median(loud.energy) - rms) < 0.3
    np.testing.assert_allclose(loud.energy[5:-5] - soft.energy[5:-5], 20.0, atol=0.1)


def test_shape_and_tilt_do_not_depend_on_level():
    audio = harmonic(np.full(SAMPLE_RATE, 200.0), slope_db=-3.0)
    loud, soft = voice_frames(audio), voice_frames(audio / 5)
    np.testing.assert_allclose(loud.tilt, soft.tilt, atol=0.05)
    np.testing.assert_allclose(loud.mel, soft.mel, atol=0.2)


def test_tilt_follows_the_spectrum():
    tilts = [voice_frames(harmonic(np.full(SAMPLE_RATE, 100.0), slope_db=s)).tilt.mean() for s in (-12.0, -6.0, 0.0)]
    # Mel bands widen with frequency, which lowers every measured slope by about the same amount: differences are kept.
    np.testing.assert_allclose(np.diff(tilts), 6.0, atol=0.7)


def test_mel_band_of_a_tone():
    for hertz in (300.0, 1000.0, 3000.0):
        tone = 0.1 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
        loudest = voice_frames(tone).mel.mean(axis=0).argmax()
        assert loudest == np.abs(mel_centres() - hertz).argmin()


@pytest.mark.parametrize("samples", [1, 100, 159, 160, 161, 5000])
def test_any_length(samples):
    frames = voice_frames(np.full(samples, 0.01, np.float32))
    assert len(frames.energy) == len(frames.f0) == len(frames.mel) == -(-samples // HOP)
    assert all(np.isfinite(getattr(frames, name)).all() for name in ("f0", "energy", "tilt", "mel", "periodicity"))
