"""Kokoro as a generator: its ids, its constructed styles, the manner between predictor and decoder, its streaming."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import ConfigError, GeneratorConfig
from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.build import build_generators, generator_widths
from empatheia_jax.generators.interfaces import ConstructsStyle, OnDeviceSpeechGenerator
from empatheia_jax.generators.phonemes import MAX_PHONEMES, SYMBOL_ID, PhonemeError, encode
from empatheia_jax.generators.styletts2 import voices
from empatheia_jax.generators.styletts2.config import StyleTTS2Error, SynthesisOptions
from empatheia_jax.generators.styletts2.kokoro import SYMBOLS, KokoroSpeech, close_ids, split_clauses
from empatheia_jax.generators.styletts2.manner import MANNER_UNITS, scale_energy, scale_rate, shape_f0
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech
from empatheia_jax.testing.tiny_generators import KOKORO, make_styletts2

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROFILES = [Profile(*words) for words in itertools.product(AGES, GENDERS, TIMBRES)]
TEXT = "I am so sorry to hear that; do you want to talk about it?"


@pytest.fixture(scope="module")
def folder(seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("kokoro") / "weights"
    save_weights(path, KOKORO, nnx.state(make_styletts2(KOKORO, seed)))
    return path


@pytest.fixture(scope="module")
def voice(folder):
    return KokoroSpeech(folder)


# What it reads --------------------------------------------------------------------------------------------------------


def test_ids_end_with_a_zero_and_hold_what_was_trained_alone(voice):
    ids = voice.phonemes(TEXT)
    assert ids[0] == ids[-1] == 0 and (ids[1:-1] > 0).all()
    assert {SYMBOL_ID[symbol] for symbol in SYMBOLS} >= set(ids[1:-1].tolist())
    # ids 12, 13, 17 to 24, 42, 174 to 176 have another meaning there, or none
    assert not {12, 13, *range(17, 25), 42, 174, 175, 176} & {SYMBOL_ID[symbol] for symbol in SYMBOLS}
    closed, unknown = close_ids(encode("bˈʌʔn̩ A«x»"))
    assert unknown == ["\N{COMBINING VERTICAL LINE BELOW}", "A", "«", "»"]
    assert closed.tolist() == [0, *encode("bˈʌʔn x")[1:], 0]


def test_the_longest_sentence_leaves_room_for_its_end(voice):
    assert len(close_ids(encode("a" * (MAX_PHONEMES - 2)))[0]) == MAX_PHONEMES
    with pytest.raises(PhonemeError, match="513 phoneme symbols"):
        close_ids(encode("a" * (MAX_PHONEMES - 1)))
    sentences = voice.phonemized("wonderful " * 400).sentences
    assert len(sentences) > 3 and max(map(len, sentences)) <= MAX_PHONEMES
    assert all(ids[0] == ids[-1] == 0 for ids in sentences)


def test_the_first_sentence_is_cut_at_clauses_and_nothing_is_lost(voice):
    ids = voice.phonemes(TEXT)
    parts = split_clauses(ids)
    assert len(parts) == 2 and all(part[0] == part[-1] == 0 for part in parts)
    np.testing.assert_array_equal(np.concatenate([part[1:-1] for part in parts]), ids[1:-1])
    assert len(split_clauses(voice.phonemes("Oh, no, I see."))) == 1  # too short to be cut


# Styles ---------------------------------------------------------------------------------------------------------------


def test_every_profile_has_a_voice_of_its_own_and_keeps_it():
    table = np.stack([voices.speech_style_for(profile)[:256] for profile in PROFILES])
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distances[~np.eye(len(table), dtype=bool)].min() > 0.5
    for profile, emotion in itertools.product(PROFILES[:3], AVATAR_EMOTIONS):
        np.testing.assert_array_equal(
            voices.speech_style_for(profile, emotion)[:256], voices.speech_style_for(profile)[:256]
        )
    shares = [sum(mix.values()) for mix, _ in voices.VOICES.values()]
    np.testing.assert_allclose(shares, 1)
    assert {name for mix, _ in voices.VOICES.values() for name in mix} <= voices.named_voices().keys()
    assert len(voices.VOICES) == len(PROFILES)


def test_avatars_of_a_profile_share_its_voice_and_differ_a_little_in_manner():
    first, second = (voices.speech_style_for(Profile("young", "female", "mid", number)) for number in (1, 25))
    np.testing.assert_array_equal(first[:256], second[:256])
    assert 0 < np.abs(first[256:] - second[256:]).max() < 0.3


def test_emotions_have_the_directions_of_the_literature():
    manner = {emotion: voices.speech_style_for(PROFILES[0], emotion)[256:] for emotion in AVATAR_EMOTIONS}
    plain = voices.speech_style_for(PROFILES[0])[256:]
    level, spread, rate, energy = ({e: m[i] - plain[i] for e, m in manner.items()} for i in range(4))
    for high in ("happy", "surprised", "fear"):
        assert level[high] > 0 > level["sad"]
    assert (
        spread["happy"] > 0 > spread["sad"] and rate["angry"] > 0 > rate["sad"] and energy["angry"] > 0 > energy["sad"]
    )
    points = np.stack(list(manner.values()))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(points), dtype=bool)]
    assert apart.min() > 0.7


def test_what_is_no_voice_is_named():
    with pytest.raises(StyleTTS2Error, match="no voice 'af_hart'.*af_heart"):
        voices.named_style("af_hart")
    with pytest.raises(StyleTTS2Error, match="no emotion 'glad'.*happy"):
        voices.named_style("af_heart", "glad")
    with pytest.raises(StyleTTS2Error, match="'old'"):
        voices.speech_style_for(Profile("old", "male", "low"), "sad")


# Manner ---------------------------------------------------------------------------------------------------------------


def test_prosody_follows_the_manner_and_zeros_change_nothing(seed):
    rng = np.random.default_rng(seed)
    f0 = rng.uniform(120, 260, (2, 40)).astype(np.float32)
    f0[:, 10:14], f0[1, 30:] = -3.0, 0.0
    np.testing.assert_allclose(shape_f0(jnp.asarray(f0), jnp.zeros((2, 4))), f0, rtol=1e-5)
    manner = np.array([[0.5, 0.0, 0.0, 1.0], [-0.5, -1.0, 2.0, 0.0]], np.float32)
    shaped = np.asarray(shape_f0(jnp.asarray(f0), jnp.asarray(manner)))
    voiced = f0 > 10
    np.testing.assert_array_equal(shaped[~voiced], f0[~voiced])
    semitones = [12 * np.log2(x[row][voiced[row]]) for row in (0, 1) for x in (f0, shaped)]
    assert semitones[1].mean() - semitones[0].mean() == pytest.approx(3, abs=1e-3)  # half of 6 semitones
    assert semitones[1].std() / semitones[0].std() == pytest.approx(1, abs=1e-3)
    shrunk = semitones[2].std() * (1 - np.exp(-0.4))  # the range turns about the mean plus one standard deviation
    assert semitones[3].mean() - semitones[2].mean() == pytest.approx(-3 + shrunk, abs=1e-3)
    assert semitones[3].std() / semitones[2].std() == pytest.approx(np.exp(-0.4), abs=1e-3)
    durations = rng.uniform(1, 8, 12)
    np.testing.assert_allclose(scale_rate(durations, np.array([0, 0, 1, 0])), durations / np.exp(MANNER_UNITS[2]))


@pytest.mark.parametrize("units, peak, expected", [(1, 0.1, 5.0), (-2, 0.9, -10.0), (1, 0.9, 0.74), (1, 1.0, 0.0)])
def test_energy_is_heard_and_never_clipped(units, peak, expected):
    audio = peak * np.sin(np.arange(2400) * 0.05).astype(np.float32)
    louder = scale_energy(audio, np.array([0, 0, 0, units]))
    assert 20 * np.log10(np.std(louder) / np.std(audio)) == pytest.approx(expected, abs=0.02)
    assert np.abs(louder).max() <= max(0.981, peak)


def test_it_speaks_in_a_manner(voice):
    ids = voice.phonemes("Hello there.")
    content, style = voice.content(ids), voices.named_style("af_heart")
    plain = voice.speak(content, style, ids)
    assert len(plain.audio) == 600 * plain.phoneme_frames.sum() and np.isfinite(plain.audio).all()
    slow, fast = (
        voice.speak(content, style + manner, ids) for manner in np.eye(260, dtype=np.float32)[[258, 258]] * [[-3], [3]]
    )
    assert slow.phoneme_frames.sum() > plain.phoneme_frames.sum() >= fast.phoneme_frames.sum()
    many = voice.speak_many([content] * 2, [style, style + np.eye(260, dtype=np.float32)[256]], [ids] * 2)
    np.testing.assert_allclose(many[0].audio, plain.audio, atol=2e-2)
    assert np.abs(many[1].audio - many[0].audio).max() > 1e-3


def test_a_predicted_style_is_spoken_within_its_limits_and_the_user_is_told(voice):
    style, ids = voices.named_style("af_heart", "surprised"), voice.phonemes("Hello there.")
    assert voice.notes_on_style(style) == []
    wild, limit = style.copy(), style.copy()
    wild[[256, 258]], limit[[256, 258]] = [400.0, -90.0], [3.0, -3.0]
    assert voice.notes_on_style(limit) == []
    (note,) = voice.notes_on_style(wild)
    assert "(f0 level, rate)" in note and "beyond 3 units" in note
    content = voice.content(ids)
    np.testing.assert_array_equal(*(voice.speak(content, s, ids).audio for s in (wild, limit)))
    wild[3] = np.nan
    with pytest.raises(StyleTTS2Error, match=r"S_speech .*finite numbers of shape \(260,\)"):
        voice.speak(content, wild, ids)


def test_a_text_is_streamed_with_one_voice(voice):
    style, options = voices.named_style("am_michael", "sad"), SynthesisOptions(seed=3)
    parts = list(voice.stream(f"{TEXT} It will pass.", style, options))
    assert len(parts) == 3
    script = voice.phonemized("It will pass.")
    (last,) = voice.speak_many(voice.contents(script.sentences), [style], script.sentences)
    np.testing.assert_array_equal(parts[-1].phoneme_frames, last.phoneme_frames)
    with pytest.raises(StyleTTS2Error, match="needs a style"):
        next(voice.stream(TEXT))


# As a generator -------------------------------------------------------------------------------------------------------


def test_golds_are_constructed(voice):
    assert isinstance(voice, OnDeviceSpeechGenerator) and isinstance(voice, ConstructsStyle)
    style, ids = voice.style_for(Profile("elderly", "male", "low", 6), "sad"), voice.phonemes(TEXT)
    (gold,) = voice.golds([style], [ids], [3.0])
    np.testing.assert_array_equal(gold["style_speech"], style)
    np.testing.assert_array_equal(gold["content_speech"], voice.content(ids))
    assert gold["phoneme_frames"].sum() == 120 and gold["phoneme_frames"].shape == ids.shape
    assert voice.agreement(voice.content(ids), ids) == 1.0


def test_what_needs_an_unreleased_network_is_refused(voice, folder, tmp_path, monkeypatch):
    with pytest.raises(StyleTTS2Error, match="style encoders were never released"):
        voice.style(np.ones(24_000, np.float32), 24_000)
    with pytest.raises(StyleTTS2Error, match="no style networks"):
        StyleTTS2Speech(folder)
    with pytest.raises(ConfigError, match="'kokoro' has no diffusion"):
        build_generators(GeneratorConfig(speech="kokoro", speech_weights=str(folder), style_refine="diffusion"))
    monkeypatch.setenv("EMPATHEIA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="kokoro is not fetched: run `empatheia fetch kokoro`"):
        build_generators(GeneratorConfig(speech="kokoro"))


def test_its_widths_are_known_without_weights():
    assert generator_widths(GeneratorConfig(speech="kokoro"))[0] == (1280, 260)
