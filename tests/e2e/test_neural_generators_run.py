"""A run whose latents drive StyleTTS 2 and DreamTalk: golds, stages, answers; other weights are refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import Config, ConfigError, GeneratorConfig
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.data.prompts.dialogue import parse_generated
from empatheia_jax.generators.avatars import choose_avatar
from empatheia_jax.generators.build import build_generators, generator_widths
from empatheia_jax.generators.interfaces import video_frame_count
from empatheia_jax.inference.load import load_engine
from empatheia_jax.inference.synthesis import synthesize
from empatheia_jax.preparation.extract import extract
from empatheia_jax.testing.corpus import write_corpus
from empatheia_jax.testing.tiny_generators import STYLETTS2, make_styletts2, write_dreamtalk_weights
from support.trainer import Trainer

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def speech_weights(tmp_path_factory, seed) -> Path:
    folder = tmp_path_factory.mktemp("styletts2") / "weights"
    save_weights(folder, STYLETTS2, nnx.state(make_styletts2(STYLETTS2, seed)))
    return folder


@pytest.fixture(scope="module")
def face_weights(tmp_path_factory, seed) -> Path:
    return write_dreamtalk_weights(tmp_path_factory.mktemp("dreamtalk") / "weights", seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def config(speech_weights, face_weights) -> Config:
    return Config(
        generators=GeneratorConfig(
            speech="styletts2", speech_weights=str(speech_weights), face="dreamtalk", face_weights=str(face_weights)
        )
    )


@pytest.fixture(scope="module")
def store(config, corpus) -> FeatureStore:
    counts = extract(config, corpus, corpus / "features", workers=2, progress=False)
    assert counts["gold"] == 10 and counts["rejected"] == 0
    return FeatureStore(corpus / "features")


@pytest.mark.slow
def test_golds_are_what_the_generators_compute_from_the_recordings(config, corpus, store):
    speech, face = build_generators(config.generators)
    (content_dim, style_dim), (video_dim, face_style_dim) = generator_widths(config.generators)
    assert store.settings["speech"] == {
        "name": "styletts2",
        "content_dim": content_dim,
        "style_dim": style_dim,
        "version": 1,
        "weights": speech.networks.sha256,
    }
    example = read_examples(corpus, "train")[0][0]
    gold = store[example.utterance_key(example.response)]
    ids = speech.phonemes(example.response.text)
    np.testing.assert_array_equal(gold["phonemes"], ids)
    content = speech.content(ids)
    assert np.abs(gold["content_speech"] - content).max() <= 2e-3 * np.abs(content).max()  # stored as float16
    assert gold["style_speech"].shape == (style_dim,)
    assert gold["phoneme_frames"].sum() == 40  # a second
    frames = video_frame_count(gold["phoneme_frames"])
    assert gold["content_video"].shape == (frames, face.content_dim) and face.content_dim == video_dim
    audio = read_audio(example.response.audio, speech.sample_rate)
    expected_content = face.content(audio, speech.sample_rate, ids, gold["phoneme_frames"])
    assert np.abs(gold["content_video"] - expected_content).max() <= 2e-3 * np.abs(expected_content).max()
    expected_style = face.style(read_video(example.response.video, max_frames=face.style_frames))
    assert expected_style.shape == (face_style_dim,)
    assert np.abs(gold["style_video"] - expected_style).max() <= 5e-3 * np.abs(expected_style).max()
    assert store.settings["face"]["weights_denoiser"] == face.networks.sha256("denoiser")


@pytest.mark.slow
def test_each_may_stand_beside_a_classical_one(config, corpus, tmp_path):
    """The classical voice gives its golds beside DreamTalk too, and DreamTalk's have its frames."""
    classical_voice = dataclasses.replace(
        config, generators=dataclasses.replace(config.generators, speech="classical", speech_weights="")
    )
    counts = extract(classical_voice, corpus, tmp_path / "features", workers=1, progress=False)
    assert counts["gold"] == 10 and counts["rejected"] == 0
    speech, face = build_generators(classical_voice.generators)
    example = read_examples(corpus, "train")[0][0]
    gold = FeatureStore(tmp_path / "features")[example.utterance_key(example.response)]
    np.testing.assert_allclose(gold["content_speech"], speech.content(gold["phonemes"]), atol=2e-3)
    assert gold["content_video"].shape == (video_frame_count(gold["phoneme_frames"]), face.content_dim)


def test_settings_that_do_not_fit_are_refused(speech_weights, tmp_path):
    for generators, message in (
        (GeneratorConfig(speech="styletts2"), "speech_weights is empty"),
        (GeneratorConfig(speech_weights=str(speech_weights)), "has no weights"),
        (GeneratorConfig(style_refine="diffusion"), "no diffusion"),
        (GeneratorConfig(face="dreamtalk"), "face_weights is empty"),
        (GeneratorConfig(face_weights=str(speech_weights)), "has no weights"),
        (GeneratorConfig(face_content="compact"), "one content"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_generators(generators)
    with pytest.raises(ValueError, match="no converted weights"):
        build_generators(GeneratorConfig(speech="styletts2", speech_weights=str(tmp_path)))
    with pytest.raises(ValueError, match="no denoiser in it"):
        build_generators(GeneratorConfig(face="dreamtalk", face_weights=str(tmp_path)))


@pytest.mark.slow
def test_latents_trained_on_them_drive_them(corpus, store, speech_weights, face_weights, *, tmp_path, seed):
    speech_flags = ("--generators.speech", "styletts2", "--generators.speech-weights", str(speech_weights))
    face_flags = ("--generators.face", "dreamtalk", "--generators.face-weights", str(face_weights))
    trainer = Trainer(tmp_path, *speech_flags, *face_flags, config="all_stages", data=corpus)
    trainer.run("run")
    engine = load_engine(tmp_path / "run")
    speech, face = build_generators(engine.config.generators, face_size=64)
    example = read_examples(corpus, "train")[0][0]
    (answer,) = engine.answer([example], store.get, [None])
    # Four epochs teach no grammar, so the response is fixed and its states are random.
    generated = parse_generated("Response: I saw the river again.")
    states = np.random.default_rng(seed).normal(size=(6, engine.config.llm.width)).astype(np.float32)
    answer = dataclasses.replace(
        answer, response_states=states, parsed=dataclasses.replace(generated, response="I saw it.")
    )
    assert answer.style_speech.shape == (speech.style_dim,) and answer.style_video.shape == (face.style_dim,)
    portrait = choose_avatar(example.listener_profile).portrait
    for source in ("generator", "synchronizer"):
        synthesized = synthesize(engine, speech, face, answer, portrait=portrait, source=source)
        audio = synthesized.speech.audio
        assert len(audio) == 600 * synthesized.speech.phoneme_frames.sum() and np.abs(audio).max() > 0
        assert len(synthesized.frames) == video_frame_count(synthesized.speech.phoneme_frames)
        assert synthesized.frames.shape[1:] == (face.size, face.size, 3)
        assert (synthesized.agreement is None) == (source == "generator")
    other_weights = tmp_path / "other"
    save_weights(other_weights, STYLETTS2, nnx.state(make_styletts2(STYLETTS2, seed + 1)))
    with pytest.raises(StoreError, match=r"speech\.weights"):
        load_engine(
            tmp_path / "run",
            generators=dataclasses.replace(engine.config.generators, speech_weights=str(other_weights)),
        )
    with pytest.raises(StoreError, match=r"face\.weights_denoiser"):
        load_engine(
            tmp_path / "run",
            generators=dataclasses.replace(
                engine.config.generators, face_weights=str(write_dreamtalk_weights(tmp_path / "faces", seed + 1))
            ),
        )
