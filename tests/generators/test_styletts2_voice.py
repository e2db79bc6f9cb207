"""StyleTTS 2 in batches and as a speech generator: padding changes nothing, any text is sound or one clear error."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import FAST

from empatheia_jax.cli import speak as command
from empatheia_jax.data.media import read_audio, read_metadata, write_audio
from empatheia_jax.generators.phonemes import PhonemeError
from empatheia_jax.generators.styletts2 import sampler, source
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.voice import Manner, StyleTTS2Error, StyleTTS2Speech, sentences
from empatheia_jax.weights import save_weights

SMALL = StyleTTS2Config(
    dim_in=4, hidden_dim=32, max_conv_dim=32, style_dim=8, upsample_initial_channel=32, diffusion_layers=2,
    diffusion_heads=2, diffusion_head_features=8, plbert_embedding=8, plbert_hidden=16, plbert_heads=2, plbert_mlp=24,
    plbert_layers=2, upsample_rates=(30, 10), upsample_kernel_sizes=(60, 20), resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
)  # fmt: skip
KINDS = {
    "hifigan": SMALL,
    "istftnet": dataclasses.replace(
        SMALL, multispeaker=False, decoder_type="istftnet", upsample_rates=(10, 6), upsample_kernel_sizes=(20, 12)
    ),
}


def make(config: StyleTTS2Config, seed: int) -> StyleTTS2:
    """Every parameter matters; a few frames a phoneme, F0 about 150 Hz."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: StyleTTS2(config, rngs=nnx.Rngs(0))))
    rng, flat = np.random.default_rng(seed), []
    for path, variable in nnx.to_flat_state(shapes):
        name, shape = "/".join(map(str, path)), variable.shape
        value = rng.normal(size=shape)
        if "alpha" in name or path[-1] == "scale":
            value = 1 + 0.1 * value
        elif path[-1] == "bias":
            value = 0.05 * value
        elif len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[:-1]))
        if "duration_proj" in name and path[-1] == "bias":
            value = value - 2.5
        if name == "predictor/F0_proj/bias":
            value = value + 150.0
        flat.append((path, variable.replace(jnp.asarray(value, jnp.float32))))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


@pytest.fixture(scope="module", params=["hifigan", pytest.param("istftnet", marks=pytest.mark.slow)])
def model(request, seed):
    return make(KINDS[request.param], seed)


def run(function, *arrays):
    return jax.tree.map(np.asarray, jax.jit(function, compiler_options=FAST)(*arrays))


def assert_rows_alone(batch, alone, lengths, tolerance=2e-5):
    """Each row of `batch` is what it is alone, and 0 behind its end."""
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        scale = np.abs(one).max()
        assert np.abs(batch[row, :length] - one[:length]).max() <= tolerance * scale
        assert not np.abs(batch[row, length:]).any()


def test_a_row_of_a_batch_is_what_it_is_alone(model, seed):
    rng, config = np.random.default_rng(seed), model.config
    lengths, size = np.array([11, 6]), 11
    tokens = rng.integers(1, config.n_token, (2, size))
    content = run(model.read, tokens, lengths)
    singles = [run(model.read, tokens[i : i + 1, :n], lengths[i : i + 1])[0] for i, n in enumerate(lengths)]
    assert_rows_alone(content, singles, lengths)
    style = rng.normal(size=(2, 2 * config.style_dim)).astype(np.float32)
    frames = np.where(np.arange(size) < lengths[:, None], rng.integers(1, 3, (2, size)), 0)
    durations = run(model.durations, content, style, lengths)
    total, longest = frames.sum(axis=1), int(frames.sum(axis=1).max()) + 2
    noise = rng.normal(size=(2, 600 * longest, source.HARMONICS)).astype(np.float32)
    waves = run(model.speak, content, style, frames, noise, lengths)
    assert waves.shape == (2, 600 * longest) and np.abs(waves).max() > 0
    for i, n in enumerate(lengths):
        alone = content[i : i + 1, :n], style[i : i + 1]
        one = run(model.durations, *alone, lengths[i : i + 1])[0]
        assert np.abs(durations[i, :n] - one).max() <= 2e-5 * np.abs(one).max()
        samples = 600 * int(total[i])
        wave = run(model.speak, *alone, frames[i : i + 1, :n], noise[i : i + 1, :samples], lengths[i : i + 1])
        # The vocoder turns rounding of F0 into phase: a looser bound, far below what a leak would do.
        assert_rows_alone(waves[i : i + 1], wave, [samples], tolerance=2e-2)


@pytest.mark.slow
def test_style_of_padded_recordings_and_the_denoiser_leak_nothing(model, seed):
    rng, config = np.random.default_rng(seed), model.config
    lengths = np.array([97, 66, 81])  # odd and even at several halvings
    mels = rng.normal(size=(3, 100, config.n_mels)).astype(np.float32)
    styles = run(model.style, mels, lengths)
    for i, n in enumerate(lengths):
        one = run(model.style, mels[i : i + 1, :n], lengths[i : i + 1])[0]
        assert np.abs(styles[i] - one).max() <= 2e-5 * np.abs(one).max()
    words = rng.normal(size=(3, 12, config.plbert_hidden)).astype(np.float32)
    counts, noise = np.array([12, 4, 7]), rng.normal(size=(3, 3, 2 * config.style_dim)).astype(np.float32)
    reference = styles if config.multispeaker else None

    def draw(words, counts, reference, noise):
        denoise = lambda x, sigma: model.diffusion(x, sigma, words, reference, counts, 1.5)  # noqa: E731
        return sampler.sample(denoise, noise[0], noise[1:])[0]

    drawn = run(draw, words, counts, reference, noise)
    for i, n in enumerate(counts):
        given = None if reference is None else reference[i : i + 1]
        one = run(draw, words[i : i + 1, :n], counts[i : i + 1], given, noise[:, i : i + 1])[0]
        assert np.abs(drawn[i] - one).max() <= 2e-5 * np.abs(one).max()


def test_phases_stay_exact_over_minutes():
    """Against float64: a minute of F0, negative values in it."""
    rng = np.random.default_rng(0)
    f0 = (150 + 60 * rng.normal(size=(1, 4800))).astype(np.float32)
    f0[0, ::17] = -30.0
    found = run(source.phases, f0)[0]
    exact = f0[0].astype(np.float64)[:, None] * np.arange(1, 10)
    middles = np.cumsum(exact / 80, axis=0)
    n = np.arange(300 * f0.shape[1])
    i = np.clip((n - 150) // 300, 0, f0.shape[1] - 2)
    r = np.clip(n - 150 - 300 * i + 0.5, 0, None)[:, None]
    whole = np.floor(exact / 24000)
    wanted = middles[i] + np.where((n >= 150)[:, None], exact[i + 1] * r / 24000 - whole[i + 1] * r, 0)
    inside = n < 300 * f0.shape[1] - 150
    apart = np.abs(np.angle(np.exp(2j * np.pi * (found - wanted)[inside]))) / (2 * np.pi)
    assert apart.max() < 5e-4  # cycles, after 80,000 of them at the ninth harmonic


# As a generator -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(seed, tmp_path_factory):
    found = {}
    for kind, config in KINDS.items():
        found[kind] = tmp_path_factory.mktemp(kind) / "weights"
        save_weights(found[kind], config, nnx.state(make(config, seed)))
    return found


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
        np.concatenate([content, np.zeros((3, voice.content_dim), np.float32)]), style,
        np.concatenate([ids, [-1, -1, -1]]),
    )  # fmt: skip
    np.testing.assert_array_equal(padded.audio, speech.audio)
    assert not padded.phoneme_frames[-3:].any()


def test_steady_state_compiles_nothing(voice, style):
    texts = ("We are here today.", "You were there before.", "They come home now.")
    voice.synthesize(texts[0], style)
    counted = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: counted.append(name) if "backend_compile" in name else None
    )
    for text in texts:
        voice.synthesize(text, style)
    jax.monitoring.clear_event_listeners()
    assert not counted


@pytest.mark.slow
def test_manner_is_heard(voice, style):
    text = "Hello there. How are you?"
    plain = voice.synthesize(text, style)
    np.testing.assert_array_equal(voice.synthesize(text, style).audio, plain.audio)  # a seed, an answer
    slow = voice.synthesize(text, style, Manner(speed=0.5))
    assert len(slow.audio) > 1.4 * len(plain.audio)
    other = voice.synthesize(text, style, Manner(embedding_scale=2.0, steps=3, seed=1))
    assert other.audio.shape != plain.audio.shape or np.abs(other.audio - plain.audio).max() > 0
    parts = list(voice.stream(text, style))
    assert len(parts) == 2
    np.testing.assert_array_equal(np.concatenate([part.audio for part in parts]), plain.audio)


@pytest.mark.parametrize(
    "text",
    ["", "   ", "\x00\x07", "你好，世界", "😀😀", "<speak><break time='1s'/>Hi</speak>", "Hi 😀 there — ok?",
     "3.5% of $20, e.g. Dr. X!", "a" * 900, "no stop " * 300, "What? " * 40, "word, " * 5000],
)  # fmt: skip
def test_any_text_is_sentences_that_the_network_reads_or_one_clear_error(text):
    try:
        found = list(sentences(text))
    except PhonemeError as error:
        assert str(error)
    else:
        assert found
        assert all(1 < len(ids) <= 512 and ids[0] == 0 and (0 <= ids).all() and (ids < 178).all() for ids in found)


def test_odd_text_is_spoken(voice, style):
    speech = voice.synthesize("Hi 😀 there — ok? 你好. 3% off.", style)
    assert np.isfinite(speech.audio).all() and len(speech.audio) == 600 * speech.phoneme_frames.sum()


def test_what_cannot_be_spoken_with_is_refused(voice, folders, style, recording):
    with pytest.raises(StyleTTS2Error, match="needs a reference"):
        voice.synthesize("Hello.")
    with pytest.raises(StyleTTS2Error, match="has one voice"):
        StyleTTS2Speech(folders["istftnet"]).synthesize("Hello.", style)
    for audio, says in ((np.zeros(40_000, np.float32), "silent"), (recording[:9000], "needs at least"),
                        (np.full(40_000, np.nan, np.float32), "finite"), (recording[None], "mono")):  # fmt: skip
        with pytest.raises(StyleTTS2Error, match=says):
            voice.style(audio, 24_000)
    with pytest.raises(StyleTTS2Error, match="S_speech of shape"):
        voice.speak(np.zeros((3, voice.content_dim)), style[:-1], np.zeros(3, np.int32))
    for wrong in ({"alpha": 1.5}, {"speed": 0.0}, {"steps": 1}):
        with pytest.raises(StyleTTS2Error):
            Manner(**wrong)


@pytest.mark.slow
def test_the_command(folders, recording, tmp_path, capsys):
    write_audio(tmp_path / "me.wav", recording, 24_000)
    words = ["--checkpoint", str(folders["hifigan"]), "--text", "Hello there."]
    with pytest.raises(StyleTTS2Error, match="pass --consent"):
        command([*words, "--reference", str(tmp_path / "me.wav"), "--output", str(tmp_path / "out.wav")])
    assert not (tmp_path / "out.wav").exists()
    given = ["--reference", str(tmp_path / "me.wav"), "--consent", "--output", str(tmp_path / "out.wav")]
    assert command([*words, *given]) == 0
    audio = read_audio(tmp_path / "out.wav", 24_000)
    facts = json.loads((tmp_path / "out.json").read_text())
    assert len(audio) == round(facts["seconds"] * 24_000) and facts["sentences"] == 1
    assert "agreed" in facts["consent"] and facts["reference"].endswith("me.wav")
    assert any("synthetic: true" in value for value in read_metadata(tmp_path / "out.wav").values())
