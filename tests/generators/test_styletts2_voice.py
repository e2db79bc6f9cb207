"""StyleTTS 2 in batches and as a speech generator: padding has no effect, any text gives speech or a clear error."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.cli import speak as command
from empatheia_jax.data.media.reading import read_audio, read_metadata
from empatheia_jax.data.media.writing import write_audio
from empatheia_jax.generators.phonemes import PhonemeError
from empatheia_jax.generators.styletts2 import decoder, diffusion
from empatheia_jax.generators.styletts2.config import StyleTTS2Error, SynthesisOptions
from empatheia_jax.generators.styletts2.text import phonemize_text
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech, scale_durations
from empatheia_jax.inference.provenance import ConsentError
from empatheia_jax.runtime.buckets import bucket
from empatheia_jax.testing.tiny import FAST, compilations
from empatheia_jax.testing.tiny_generators import STYLETTS2_KINDS, make_styletts2

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module", params=["hifigan", pytest.param("istftnet", marks=pytest.mark.slow)])
def model(request, seed):
    return make_styletts2(STYLETTS2_KINDS[request.param], seed)


def run(function, *arrays):
    return jax.tree.map(np.asarray, jax.jit(function, compiler_options=FAST)(*arrays))


def assert_equal_alone(batch, alone, lengths, tolerance=2e-5):
    """Assert that each item of `batch` equals its result alone and is 0 on padding."""
    for actual, expected, length in zip(batch, alone, lengths, strict=True):
        scale = np.abs(expected).max()
        assert np.abs(actual[:length] - expected[:length]).max() <= tolerance * scale
        assert not np.abs(actual[length:]).any()


@pytest.mark.slow
def test_a_row_of_a_batch_is_what_it_is_alone(model, seed):
    rng, config = np.random.default_rng(seed), model.config
    lengths, size = np.array([11, 6]), 11
    tokens = rng.integers(1, config.n_token, (2, size))
    content = run(model.encode_text, tokens, lengths)
    short = slice(1, 2)  # the item that is padded
    single = run(model.encode_text, tokens[short, : lengths[1]], lengths[short])
    assert_equal_alone(content[short], single, lengths[short])
    style = rng.normal(size=(2, 2 * config.style_dim)).astype(np.float32)
    frames = np.where(np.arange(size) < lengths[:, None], rng.integers(1, 3, (2, size)), 0)
    durations = run(model.durations, content, style, lengths)

    def speak(*arrays):
        return model.speak(*arrays[:-1], lengths=arrays[-1])

    total, longest = frames.sum(axis=1), int(frames.sum(axis=1).max()) + 2
    noise = rng.normal(size=(2, 600 * longest, decoder.HARMONICS)).astype(np.float32)
    waves = run(speak, content, style, frames, noise, lengths)
    assert waves.shape == (2, 600 * longest) and np.abs(waves).max() > 0
    alone = content[short, : lengths[1]], style[short]
    expected = run(model.durations, *alone, lengths[short])[0]
    assert np.abs(durations[1, : lengths[1]] - expected).max() <= 2e-5 * np.abs(expected).max()
    samples = 600 * int(total[1])
    wave = run(speak, *alone, frames[short, : lengths[1]], noise[short, :samples], lengths[short])
    # The vocoder turns rounding of F0 into phase: a looser bound, far below the effect of a leak.
    assert_equal_alone(waves[short], wave, [samples], tolerance=2e-2)


@pytest.mark.slow
def test_style_of_padded_recordings_and_the_denoiser_leak_nothing(model, seed):
    rng, config = np.random.default_rng(seed), model.config
    lengths = np.array([97, 66, 81])  # odd and even at several halvings
    mels = rng.normal(size=(3, 100, config.n_mels)).astype(np.float32)
    styles = run(model.style, mels, lengths)
    for i, n in enumerate(lengths):
        expected = run(model.style, mels[i : i + 1, :n], lengths[i : i + 1])[0]
        assert np.abs(styles[i] - expected).max() <= 2e-5 * np.abs(expected).max()
    words = rng.normal(size=(3, 12, config.plbert_hidden)).astype(np.float32)
    counts, noise = np.array([12, 4, 7]), rng.normal(size=(3, 3, 2 * config.style_dim)).astype(np.float32)
    reference = styles if config.multispeaker else None

    def sample(words, counts, reference, noise):
        def denoise(x, sigma):
            return model.diffusion(x, sigma, words, reference, lengths=counts, embedding_scale=1.5)

        return diffusion.sample(denoise, noise[0], noise[1:])[0]

    sampled = run(sample, words, counts, reference, noise)
    for i, n in enumerate(counts):
        single = None if reference is None else reference[i : i + 1]
        expected = run(sample, words[i : i + 1, :n], counts[i : i + 1], single, noise[:, i : i + 1])[0]
        assert np.abs(sampled[i] - expected).max() <= 2e-5 * np.abs(expected).max()


def test_phases_stay_exact_over_minutes():
    """Phases of a minute of F0, with negative values, against float64."""
    rng = np.random.default_rng(0)
    f0 = (150 + 60 * rng.normal(size=(1, 4800))).astype(np.float32)
    f0[0, ::17] = -30.0
    phases = run(decoder.phases, f0)[0]
    exact = f0[0].astype(np.float64)[:, None] * np.arange(1, 10)
    middles = np.cumsum(exact / 80, axis=0)
    n = np.arange(300 * f0.shape[1])
    i = np.clip((n - 150) // 300, 0, f0.shape[1] - 2)
    r = np.clip(n - 150 - 300 * i + 0.5, 0, None)[:, None]
    whole_cycles = np.floor(exact / 24000)
    expected = middles[i] + np.where((n >= 150)[:, None], exact[i + 1] * r / 24000 - whole_cycles[i + 1] * r, 0)
    inside = n < 300 * f0.shape[1] - 150
    difference = np.abs(np.angle(np.exp(2j * np.pi * (phases - expected)[inside]))) / (2 * np.pi)
    assert difference.max() < 1e-4  # cycles, after 80,000 of them at the ninth harmonic


# As a generator -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(seed, tmp_path_factory):
    paths = {}
    for kind, config in STYLETTS2_KINDS.items():
        paths[kind] = tmp_path_factory.mktemp(kind) / "weights"
        save_weights(paths[kind], config, nnx.state(make_styletts2(config, seed)))
    return paths


@pytest.fixture(scope="module")
def voice(folders):
    return StyleTTS2Speech(folders["hifigan"])


@pytest.fixture(scope="module")
def recording():
    time = np.arange(36_000) / 24_000
    return (0.3 * np.sin(2 * np.pi * 180 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.fixture(scope="module")
def style(voice, recording):
    return voice.style(recording, 24_000)


def test_it_offers_what_generators_offer(voice, style, recording):
    ids = voice.phonemes("Hello there, friend.")
    content = voice.content(ids)
    assert content.shape == (len(ids), voice.content_dim) and style.shape == (voice.style_dim,)
    frames = voice.align(recording, 24_000, ids)
    assert frames.shape == ids.shape and frames.sum() == 60 and frames.min() >= 0  # 1.5 s
    speech = voice.speak(content, style, ids)
    assert len(speech.audio) == 600 * speech.phoneme_frames.sum() and speech.phoneme_frames.min() >= 1
    assert np.isfinite(speech.audio).all() and np.abs(speech.audio).max() > 0
    padded = voice.speak(
        np.concatenate([content, np.zeros((3, voice.content_dim), np.float32)]),
        style,
        np.concatenate([ids, [-1, -1, -1]]),
    )
    np.testing.assert_array_equal(padded.audio, speech.audio)
    assert not padded.phoneme_frames[-3:].any()


def test_steady_state_compiles_nothing(voice, style):
    texts = ("We are here today.", "You were there before.", "They come home now.")
    voice.synthesize(texts[0], style)
    with compilations() as counted:
        for text in texts:
            voice.synthesize(text, style)
    assert not counted


@pytest.mark.slow
def test_manner_is_heard(voice, style):
    text = "Hello there. How are you?"
    plain = voice.synthesize(text, style)
    np.testing.assert_array_equal(voice.synthesize(text, style).audio, plain.audio)  # determined by the seed
    slow = voice.synthesize(text, style, SynthesisOptions(speed=0.5))
    assert len(slow.audio) > 1.4 * len(plain.audio)
    other = voice.synthesize(text, style, SynthesisOptions(embedding_scale=2.0, steps=3, seed=1))
    assert other.audio.shape != plain.audio.shape or np.abs(other.audio - plain.audio).max() > 0
    parts = list(voice.stream(text, style))
    assert len(parts) == 2
    np.testing.assert_array_equal(np.concatenate([part.audio for part in parts]), plain.audio)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\x00\x07",
        "你好，世界",
        "😀😀",
        "<speak><break time='1s'/>Hi</speak>",
        "Hi 😀 there — ok?",
        "3.5% of $20, e.g. Dr. X!",
        "a" * 900,
        "no stop " * 300,
        "What? " * 40,
        "word, " * 5000,
    ],
)
def test_any_text_is_sentences_that_the_network_reads_or_one_clear_error(text):
    try:
        sentences = phonemize_text(text).sentences
    except PhonemeError as error:
        assert str(error)
    else:
        assert sentences
        assert all(1 < len(ids) <= 512 and ids[0] == 0 and (0 <= ids).all() and (ids < 178).all() for ids in sentences)


@pytest.mark.slow
def test_odd_text_is_spoken_and_what_is_not_is_told(voice, style):
    phonemized = phonemize_text("Hi 😀 there — ok? 你好. 3% off. 再见！Bye.")
    speech = voice.synthesize(phonemized, style)
    assert np.isfinite(speech.audio).all() and len(speech.audio) == 600 * speech.phoneme_frames.sum()
    assert len(phonemized.sentences) == 3 and phonemized.dropped_parts == ("你好.", "再见！")
    assert "'你好.'" in phonemized.notes[0]


def test_a_symbol_that_the_table_lacks_is_counted(monkeypatch):
    monkeypatch.setattr("empatheia_jax.generators.phonemes.phonemize", lambda text: "h7l7oʊ 8")
    phonemized = phonemize_text("Hello.")
    assert phonemized.dropped_symbols == {"7": 2, "8": 1} and "'7' x 2, '8' x 1" in phonemized.notes[0]
    np.testing.assert_array_equal(phonemized.sentences[0][1:], phonemize_text("Hello.").sentences[0][1:])
    assert len(phonemized.sentences[0]) == 1 + len("hloʊ")


def test_a_word_longer_than_the_network_reads_is_cut(monkeypatch):
    monkeypatch.setattr("empatheia_jax.generators.phonemes.phonemize", lambda text: "ab" * 600)
    assert [len(ids) for ids in phonemize_text("Hm.").sentences] == [512, 512, 179]


def test_buckets_are_few_and_near():
    for least, steps in ((32, 4), (40, 8), (80, 4)):
        sizes = [bucket(length, least, steps) for length in range(1, 3000)]
        for length, size in enumerate(sizes, 1):
            assert length <= size and (size == least or size <= length * (1 + 1 / steps))
        assert sizes == sorted(sizes) and all(bucket(size, least, steps) == size for size in sizes)
        assert len(set(sizes)) <= 8 * steps


@pytest.mark.slow
def test_many_at_once_are_what_each_is_alone(voice, style):
    texts = ["Hello there, my friend. How are you?", "Yes.", "We were here before, were we not? Fine. Good."]
    references = [style, 0.5 * style, style[::-1].copy()]
    together = voice.synthesize_many(texts, references)
    for text, reference, speech in zip(texts, references, together, strict=True):
        alone = voice.synthesize(text, reference)
        np.testing.assert_array_equal(speech.phoneme_frames, alone.phoneme_frames)
        # as in a batch of the networks, rounding of F0 becomes phase
        assert np.abs(speech.audio - alone.audio).max() <= 2e-2 * np.abs(alone.audio).max()


def test_golds_of_many_are_those_of_each(voice, recording):
    ids = [voice.phonemes(text) for text in ("Hello there, friend.", "Oh.")]
    lengths = (36_000, 30_000)
    golds = voice.golds([voice.prepare(recording[:n], 24_000) for n in lengths], ids, [n / 24_000 for n in lengths])
    for gold, phonemes, n in zip(golds, ids, lengths, strict=True):
        for actual, expected in (
            (gold["content_speech"], voice.content(phonemes)),
            (gold["style_speech"], voice.style(recording[:n], 24_000)),
        ):
            assert np.abs(actual - expected).max() <= 2e-5 * np.abs(expected).max()
        np.testing.assert_array_equal(gold["phoneme_frames"], voice.align(recording[:n], 24_000, phonemes))
        assert gold["phoneme_frames"].sum() == n // 600


def test_durations_are_stretched_to_the_recording():
    assert scale_durations(np.array([1.0, 2.0, 1.0]), 0.2).tolist() == [2, 4, 2]
    assert scale_durations(np.array([0.1] * 7), 0.1).sum() == 4


def test_agreement_sees_whose_words_the_content_says(voice):
    ids = voice.phonemes("Hello there, friend.")
    content = voice.content(ids)
    assert voice.agreement(content, ids) == 1.0
    assert voice.agreement(content[::-1], ids) < 0.5


@pytest.mark.slow
def test_refined_styles_are_drawn_near_the_given_one(folders, voice, style):
    ids = voice.phonemes("Hello there, friend.")
    refining = StyleTTS2Speech(folders["hifigan"], refine=True)
    content = voice.content(ids)
    refined = refining.speak(content, style, ids)
    assert (
        refined.audio.shape != voice.speak(content, style, ids).audio.shape
        or np.abs(refined.audio - voice.speak(content, style, ids).audio).max() > 0
    )
    unchanged = refining.speak_many([content], [style], [ids], SynthesisOptions(alpha=0.0, beta=0.0))[0]
    np.testing.assert_array_equal(unchanged.audio, voice.speak(content, style, ids).audio)
    with pytest.raises(StyleTTS2Error, match="one speaker"):
        StyleTTS2Speech(folders["istftnet"], refine=True)


@pytest.mark.slow
def test_bfloat16_is_near_float32(folders, voice, style):
    """Durations are equal, since they are computed in float32; the spectrum is within a decibel or two."""
    ids = voice.phonemes("Hello there, friend.")
    content = voice.content(ids)
    plain = voice.speak(content, style, ids)
    half = StyleTTS2Speech(folders["hifigan"], "bfloat16").speak(content, style, ids)
    np.testing.assert_array_equal(half.phoneme_frames, plain.phoneme_frames)
    spectra = [np.log(1e-3 + np.abs(np.fft.rfft(x.audio.reshape(-1, 600) * np.hanning(600)))) for x in (plain, half)]
    difference = np.sqrt(np.mean(np.square(spectra[0] - spectra[1]))) * 20 / np.log(10)
    assert 0 < difference < 3.0, f"{difference:.2f} dB"


def test_what_cannot_be_spoken_with_is_refused(voice, folders, style, recording):
    with pytest.raises(StyleTTS2Error, match="needs a reference"):
        voice.synthesize("Hello.")
    with pytest.raises(StyleTTS2Error, match="has one voice"):
        StyleTTS2Speech(folders["istftnet"]).synthesize("Hello.", style)
    for audio, message in (
        (np.zeros(40_000, np.float32), "silent"),
        (np.full(40_000, np.nan, np.float32), "finite"),
        (recording[None], "mono"),
    ):
        with pytest.raises(StyleTTS2Error, match=message):
            voice.style(audio, 24_000)
    with pytest.raises(StyleTTS2Error, match="S_speech of shape"):
        voice.speak(np.zeros((3, voice.content_dim)), style[:-1], np.zeros(3, np.int32))
    for options in ({"alpha": 1.5}, {"speed": 0.0}, {"steps": 1}):
        with pytest.raises(StyleTTS2Error):
            SynthesisOptions(**options)


@pytest.mark.parametrize("samples", [700, 9000, 19_199])
def test_a_recording_shorter_than_the_style_encoder_needs_is_padded_and_counted(folders, recording, samples):
    voice = StyleTTS2Speech(folders["hifigan"])
    loudest = int(np.argmax(np.abs(recording[10_000:60_000]))) + 10_000
    style = voice.style(recording[loudest - samples // 2 :][:samples], 24_000)
    assert style.shape == (voice.style_dim,) and np.isfinite(style).all() and voice.references_padded == 1
    voice.style(recording, 24_000)
    assert voice.references_padded == 1


@pytest.mark.slow
def test_the_command(folders, recording, tmp_path, capsys):
    write_audio(tmp_path / "me.wav", recording, 24_000)
    arguments = ["--checkpoint", str(folders["hifigan"]), "--text", "Hello there."]
    with pytest.raises(ConsentError, match="pass --consent"):
        command([*arguments, "--reference", str(tmp_path / "me.wav"), "--output", str(tmp_path / "out.wav")])
    assert not (tmp_path / "out.wav").exists()
    reference = ["--reference", str(tmp_path / "me.wav"), "--consent", "--output", str(tmp_path / "out.wav")]
    assert command([*arguments, *reference]) == 0
    audio = read_audio(tmp_path / "out.wav", 24_000)
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(audio) == round(report["seconds"] * 24_000) and report["sentences"] == 1
    assert "agreed" in report["consent"] and report["reference"].endswith("me.wav")
    assert any("synthetic: true" in value for value in read_metadata(tmp_path / "out.wav").values())
