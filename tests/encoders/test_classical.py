"""The encoders' contract (one shape, order 1, independent of length), and the content of the features."""

import numpy as np
import pytest

from empatheia_jax.config import EncoderConfig
from empatheia_jax.encoders import EncoderError, build_encoders
from empatheia_jax.encoders.classical_audio import ClassicalAudio, modulation_rate, segment_weights, syllable_nuclei
from empatheia_jax.encoders.classical_video import ClassicalVideo, oriented_gradients
from empatheia_jax.encoders.contract import evenly_spaced
from empatheia_jax.encoders.voice_frames import SAMPLE_RATE


def syllables(count: int, rate: float, hertz: float, level: float = 0.2) -> np.ndarray:
    """Return `count` vowel-like syllables, `rate` a second: harmonics under a raised-cosine envelope."""
    time = np.arange(int(count / rate * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = 0.02 + 0.98 * (0.5 - 0.5 * np.cos(2 * np.pi * rate * time)) ** 2
    voice = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, int(7000 / hertz)))
    return (level * envelope * voice / 2).astype(np.float32)


def encode(encoder, media):
    return encoder.encode(encoder.preprocess(media))


def face(mouth: int, size: int = 128, skin=(200, 160, 140)) -> np.ndarray:
    """Draw a schematic face uint8 [size, size, 3]: skin disc, eyes, and a mouth line bent by `mouth` pixels."""
    y, x = np.mgrid[:128, :128]
    image = np.full((128, 128, 3), 90, np.uint8)
    image[(y - 64) ** 2 / 1.4 + (x - 64) ** 2 < 40**2] = skin
    for centre in (48, 80):
        image[(y - 52) ** 2 + (x - centre) ** 2 < 16] = 20
    curve = 88 + mouth * (1 - ((x - 64) / 18.0) ** 2)
    image[(np.abs(y - curve) < 2) & (np.abs(x - 64) < 18)] = (150, 40, 40)
    return image.repeat(size // 128, axis=0).repeat(size // 128, axis=1)


def test_built_from_config():
    encoders = build_encoders(EncoderConfig(audio_segments=16, video_frames=4))
    assert set(encoders) == {"audio", "video"}
    assert encoders["audio"].feature_shape[0] == 16 and encoders["video"].feature_shape[0] == 4


@pytest.mark.parametrize("encoder", [ClassicalAudio(), ClassicalVideo(), ClassicalAudio(5), ClassicalVideo(3)])
def test_classical_features_are_finite_small_and_alike_alone_and_in_a_batch(encoder):
    rng = np.random.default_rng(0)
    for length in (1, 7, 40000) if encoder.modality == "audio" else (1, 7, 30):
        if encoder.modality == "audio":
            media = rng.normal(0, 0.1, length).astype(np.float32)
        else:
            media = rng.integers(0, 256, (length, 90, 160, 3), dtype=np.uint8)
        prepared = encoder.preprocess(media)
        assert prepared.shape == encoder.input_shape
        features = encoder.encode(prepared)
        assert features.shape == encoder.feature_shape and features.dtype == np.float32
        assert np.isfinite(features).all() and np.abs(features).max() <= 8.0
        batch = encoder.encode(np.stack([prepared, prepared]))
        np.testing.assert_allclose(batch, np.stack([features, features]), rtol=1e-5, atol=1e-5)
    assert encoder.settings()["shape"] == list(encoder.feature_shape)


@pytest.mark.parametrize(
    "media",
    [np.zeros(0, np.float32), np.zeros((5, 2), np.float32), np.zeros(9, np.int16), np.full(10, np.nan, np.float32)],
)
def test_bad_audio(media):
    with pytest.raises(EncoderError, match="audio"):
        ClassicalAudio().preprocess(media)


@pytest.mark.parametrize(
    "shape, dtype",
    [((0, 8, 8, 3), np.uint8), ((8, 8, 3), np.uint8), ((2, 8, 8, 3), np.float32), ((2, 8, 8, 4), np.uint8)],
)
def test_bad_video(shape, dtype):
    with pytest.raises(EncoderError, match="video"):
        ClassicalVideo().preprocess(np.zeros(shape, dtype))


def test_pitch_level_and_rate_are_in_the_features():
    encoder = ClassicalAudio()
    low, high = (encoder.preprocess(syllables(8, 4.0, hertz)) for hertz in (110.0, 220.0))
    for dim in (0, 50):
        np.testing.assert_allclose(high[:, dim] - low[:, dim], 1.0, atol=0.05)  # an octave in log2 Hz
    soft = encoder.preprocess(syllables(8, 4.0, 110.0, level=0.02))
    np.testing.assert_allclose(low[:, [5, 55]].mean(axis=0) - soft[:, [5, 55]].mean(axis=0), 20.0, atol=2.0)
    slow, fast = (encoder.preprocess(syllables(8, rate, 150.0))[0, 60] for rate in (2.5, 5.0))
    assert fast - slow == pytest.approx(1.0, abs=0.2)  # log2


def test_audio_features_do_not_depend_on_length():
    """Twice the syllables at the same rate: the utterance's measures stay; at any length, segments pool alike."""
    encoder = ClassicalAudio()
    once, twice = (encode(encoder, syllables(count, 4.0, 140.0)) for count in (6, 12))
    np.testing.assert_allclose(once.mean(axis=0), twice.mean(axis=0), atol=0.35)
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(50, 3))
    np.testing.assert_allclose(
        segment_weights(50, 32) @ frames, segment_weights(100, 32) @ frames.repeat(2, axis=0), atol=1e-6
    )


@pytest.mark.parametrize("frames, segments", [(1, 32), (31, 32), (32, 32), (200, 32), (7, 3)])
def test_segment_weights(frames, segments):
    weights = segment_weights(frames, segments)
    assert weights.shape == (segments, frames) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(axis=0), 1.0 / frames, rtol=1e-4)  # every frame counts the same


def test_syllable_nuclei():
    for count in (1, 3, 8):
        contour = -40 + 25 * np.sin(np.pi * np.arange(count * 25) / 25) ** 2
        assert syllable_nuclei(contour, np.ones(len(contour), bool)) == count
        assert syllable_nuclei(contour, np.zeros(len(contour), bool)) == 0
    assert syllable_nuclei(np.full(100, -30.0), np.ones(100, bool)) == 0


def test_modulation_rate_of_a_moving_formant():
    """A spectral peak that swings f times a second gives f, whatever the level of the rest."""
    centres = np.arange(40)
    for hertz in (2.0, 4.0, 6.0):
        time = np.arange(200) / 100
        peak = 20 + 1.5 * np.sin(2 * np.pi * hertz * time)
        mel = -20 - 0.05 * (centres[None] - peak[:, None]) ** 2
        assert modulation_rate(mel) == pytest.approx(hertz, rel=0.15)


def test_video_features_see_the_mouth_and_not_the_size():
    encoder = ClassicalVideo()
    smile, frown, big = (
        encode(encoder, np.stack([face(mouth, size)] * 8)) for mouth, size in ((6, 128), (-6, 128), (6, 256))
    )
    change = np.abs(smile - frown).mean()
    assert change > 0.02
    assert np.abs(smile - big).mean() < change / 2
    edges = np.abs(smile - frown)[0, :648].reshape(9, 9, 8).sum(axis=-1)
    assert edges[5:].sum() > 3 * edges[:4].sum()  # the lower half changes


def test_frames_are_spread_evenly():
    np.testing.assert_array_equal(evenly_spaced(8, 8), np.arange(8))
    np.testing.assert_array_equal(evenly_spaced(64, 8), np.arange(4, 64, 8))
    np.testing.assert_array_equal(evenly_spaced(2, 4), [0, 0, 1, 1])
    assert evenly_spaced(1, 8).max() == 0


def test_gradient_orientation():
    """A grating puts its energy into the bin of its normal's direction."""
    y, x = np.mgrid[:72, :72]
    for index, angle in enumerate(np.pi * np.arange(8) / 8):
        wave = 127 + 100 * np.sin((x * np.cos(angle) + y * np.sin(angle)) / 3)
        crop = np.repeat(wave.astype(np.uint8)[..., None], 3, axis=-1)
        bins = oriented_gradients(crop[None]).reshape(9, 9, 8).mean(axis=(0, 1))
        assert bins.argmax() == index


def test_a_clip_without_a_face_is_counted_and_used_whole():
    encoder = ClassicalVideo()
    encoder.preprocess(np.full((8, 64, 64, 3), 128, np.uint8))
    assert encoder.faces_missed == 1
