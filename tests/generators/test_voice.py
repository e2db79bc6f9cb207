"""The classical speech generator: the requested style is measured, the requested content is spoken, times add up."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical import measure
from empatheia_jax.generators.classical.speech_style import ENERGY, RATE, STYLE_NAMES, TILT, UNITS, VoiceError
from empatheia_jax.generators.classical.voice import ClassicalSpeech
from empatheia_jax.generators.classical.voices import speech_style_for, voice_coordinates
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS

TEXTS = (
    "I lost my keys in the park this morning.",
    "Why did nobody call me, then?",
    "That sounds like a wonderful plan for your birthday!",
    "She left the door open, and the dog ran away.",
)


@pytest.fixture(scope="module")
def speech():
    return ClassicalSpeech()


def speak(speech, text, style):
    phonemes = speech.phonemes(text)
    return phonemes, speech.speak(speech.content(phonemes), style, phonemes)


def random_style(rng) -> np.ndarray:
    voice = voice_coordinates(AGES[rng.integers(4)], GENDERS[rng.integers(2)])
    return np.concatenate([rng.uniform(-1, 1, 5) * [1.6, 1.2, 1.4, 1.2, 1.2], voice + rng.normal(0, 0.2, 4)])


def test_style_asked_is_style_measured(speech, seed):
    rng = np.random.default_rng(seed)
    requested, measured = [], []
    for number in range(32):
        style = random_style(rng)
        phonemes, spoken = speak(speech, TEXTS[number % len(TEXTS)], style)
        requested.append(style)
        measured.append(speech.style(spoken.audio, spoken.sample_rate, phonemes))
    requested, measured = np.array(requested), np.array(measured)
    explained = 1 - ((requested - measured) ** 2).sum(0) / ((requested - requested.mean(0)) ** 2).sum(0)
    floor = {name: 0.95 for name in STYLE_NAMES} | {"f0_range": 0.7}
    assert {name: share for name, share in zip(STYLE_NAMES, explained, strict=True) if share < floor[name]} == {}


@pytest.mark.parametrize("index, step", [(RATE, 1.0), (ENERGY, 1.0), (TILT, 1.0)])
def test_one_unit_of_style_changes_the_sound_by_what_the_docstring_says(speech, index, step):
    """Checked on the samples, without the generator's own style measure."""
    low, high = np.zeros(speech.style_dim), np.zeros(speech.style_dim)
    low[index], high[index] = -step / 2, step / 2
    first, second = (speak(speech, TEXTS[0], style)[1].audio for style in (low, high))
    if index == RATE:
        measured = np.log(len(first) / len(second))
    elif index == ENERGY:
        measured = 20 * np.log10(np.sqrt((second**2).mean()) / np.sqrt((first**2).mean()))
    else:  # power above 2 kHz over power in 250 .. 1000 Hz: about two octaves and a half apart
        power = [np.abs(np.fft.rfft(x)) ** 2 for x in (first, second)]
        frequency = [np.fft.rfftfreq(len(x), 1 / 24000) for x in (first, second)]
        ratio = [
            10 * np.log10(p[f > 2000].sum() / p[(f > 250) & (f < 1000)].sum())
            for p, f in zip(power, frequency, strict=True)
        ]
        measured = (ratio[1] - ratio[0]) / 2.5
    assert measured == pytest.approx(step * UNITS[index], rel=0.3)


def test_f0_follows_the_style_in_semitones(speech):
    style, up = np.zeros(speech.style_dim), np.zeros(speech.style_dim)
    up[0] = 1.0
    f0 = [measure.measure_f0(speak(speech, TEXTS[1], s)[1].audio, 24000) for s in (style, up)]
    assert 12 * np.log2(f0[1] / f0[0]) == pytest.approx(6.0, abs=0.7)


def test_speech_is_the_same_every_time(speech, seed):
    style = random_style(np.random.default_rng(seed))
    first = speak(speech, TEXTS[2], style)[1]
    speak(speech, TEXTS[3], -style)
    again = speak(speech, TEXTS[2], style)[1]
    np.testing.assert_array_equal(first.audio, again.audio)
    np.testing.assert_array_equal(first.phoneme_frames, again.phoneme_frames)


def test_threads_do_not_disturb_each_other(speech, seed):
    styles = [random_style(np.random.default_rng(seed + number)) for number in range(4)]
    alone = [speak(speech, TEXTS[0], style)[1].audio for style in styles]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda style: speak(speech, TEXTS[0], style)[1].audio, styles * 3))
    for first, second in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_content_decides_what_is_said(speech):
    """Content of one sentence with the phonemes of another: the content is spoken, noise on it notwithstanding."""
    phonemes = speech.phonemes(TEXTS[0])
    noisy = speech.content(phonemes) + np.random.default_rng(0).normal(scale=0.05, size=(len(phonemes), 1))
    np.testing.assert_array_equal(speech.decode_content(noisy), phonemes)
    expected = speech.speak(speech.content(phonemes), np.zeros(9), phonemes)
    other_phonemes = np.where(phonemes > 0, 43, 0)
    np.testing.assert_array_equal(speech.speak(noisy, np.zeros(9), other_phonemes).audio, expected.audio)


def test_times_cover_the_speech_and_vowels_are_where_the_sound_is(speech):
    phonemes, spoken = speak(speech, "Oh, tea!", np.zeros(speech.style_dim))
    frames = spoken.phoneme_frames
    assert frames.dtype == np.int32 and frames.shape == phonemes.shape and frames.min() >= 0
    assert frames.sum() == np.ceil(len(spoken.audio) / 24000 / PHONEME_FRAME_SECONDS)
    ends = np.cumsum(frames) * 600
    comma = int(np.nonzero(phonemes == 3)[0][0])
    pause = spoken.audio[ends[comma] - 2 * 600 : ends[comma] - 600]
    vowel = spoken.audio[ends[comma - 3] - 600 : ends[comma - 3]]
    assert np.abs(pause).max() < 0.1 * np.abs(vowel).max()


def test_padding_gets_no_time_and_changes_nothing(speech):
    phonemes = speech.phonemes(TEXTS[0])
    padded = np.concatenate([phonemes, np.full(7, -1, np.int32)])
    plain = speech.speak(speech.content(phonemes), np.zeros(9), phonemes)
    spoken = speech.speak(speech.content(padded), np.zeros(9), padded)
    np.testing.assert_array_equal(spoken.audio, plain.audio)
    assert spoken.phoneme_frames[-7:].sum() == 0
    assert speech.align(spoken.audio, 24000, padded)[-7:].sum() == 0


@pytest.mark.parametrize("rate", [8000, 24000, 44100])
def test_align_sums_to_the_recording_and_finds_the_phonemes(speech, rate):
    import soxr

    style = np.zeros(speech.style_dim)
    style[RATE] = 0.7
    phonemes, spoken = speak(speech, TEXTS[3], style)
    silence = np.zeros(rate // 2, np.float32)
    recording = np.concatenate([silence, soxr.resample(spoken.audio, 24000, rate), silence])
    frames = speech.align(recording, rate, phonemes)
    assert frames.sum() == np.ceil(len(recording) / rate / PHONEME_FRAME_SECONDS)
    errors = np.cumsum(frames)[:-1] - (np.cumsum(spoken.phoneme_frames)[:-1] + 20)
    assert np.abs(errors).max() <= 2.5  # of 25 ms


def test_style_does_not_depend_on_the_sample_rate_above_20_khz(speech, seed):
    import soxr

    phonemes, spoken = speak(speech, TEXTS[1], random_style(np.random.default_rng(seed)))
    first = speech.style(spoken.audio, 24000, phonemes)
    second = speech.style(soxr.resample(spoken.audio, 24000, 48000), 48000, phonemes)
    np.testing.assert_allclose(first, second, atol=0.02)


def test_bad_requests_are_named(speech):
    phonemes = speech.phonemes("Yes.")
    content = speech.content(phonemes)
    with pytest.raises(VoiceError, match="content must be"):
        speech.speak(content[:-1], np.zeros(9), phonemes)
    with pytest.raises(VoiceError, match="style must be"):
        speech.speak(content, np.zeros(8), phonemes)
    with pytest.raises(VoiceError, match="finite"):
        speech.speak(content, np.full(9, np.nan), phonemes)
    with pytest.raises(VoiceError, match="has a sound"):
        speech.speak(content * 0, np.zeros(9), phonemes)
    with pytest.raises(ValueError, match="silent"):
        speech.style(np.zeros(24000, np.float32), 24000, phonemes)


def test_profile_and_emotion_are_told_from_recordings_of_new_avatars(speech):
    """Nearest of the styles of avatar 1, measured from other avatars that say other words."""
    profiles = [Profile(a, g, t) for a, g, t in zip(AGES * 3, GENDERS * 6, np.repeat(TIMBRES, 4), strict=True)]
    emotion_right, profile_right = [], []
    for number, profile in enumerate(profiles):
        emotion = AVATAR_EMOTIONS[number % 7]
        style = speech_style_for(profile, emotion, avatar_id=100 + number)
        phonemes, spoken = speak(speech, TEXTS[number % len(TEXTS)], style)
        measured_style = speech.style(spoken.audio, spoken.sample_rate, phonemes)
        by_emotion = [np.linalg.norm(measured_style - speech_style_for(profile, e, 1)) for e in AVATAR_EMOTIONS]
        by_profile = [np.linalg.norm(measured_style - speech_style_for(p, emotion, 1)) for p in profiles]
        emotion_right.append(AVATAR_EMOTIONS[int(np.argmin(by_emotion))] == emotion)
        profile_right.append(profiles[int(np.argmin(by_profile))] == profile)
    assert np.mean(emotion_right) >= 0.9 and np.mean(profile_right) >= 0.9


def test_performances_differ_by_avatar_and_refuse_unknown_words():
    profile = Profile("young", "female", "mid")
    first, second = speech_style_for(profile, "sad", 1), speech_style_for(profile, "sad", 2)
    assert 0 < np.abs(first - second).max() < 0.6
    np.testing.assert_array_equal(first, speech_style_for(profile, "sad", 1))
    with pytest.raises(ValueError, match="bored"):
        speech_style_for(profile, "bored", 1)
    with pytest.raises(ValueError, match="teen"):
        speech_style_for(Profile("teen", "female", "mid"), "sad", 1)
