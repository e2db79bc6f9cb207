"""A run whose latents speak to StyleTTS 2: golds, stages, answers performed; other weights are refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from corpus import write_corpus
from flax import nnx
from small_styletts2 import SMALL, make
from trainer import ALL_STAGES, Trainer

from empatheia_jax.config import Config, ConfigError, GeneratorConfig
from empatheia_jax.data.avamerg import read_examples
from empatheia_jax.data.features import FeatureStore, StoreError
from empatheia_jax.data.prompts import parse_generated
from empatheia_jax.generators.build import build_generators, generator_widths
from empatheia_jax.generators.interfaces import video_frame_count
from empatheia_jax.inference.avatars import choose_avatar
from empatheia_jax.inference.engine import Engine
from empatheia_jax.inference.perform import perform
from empatheia_jax.preparation.extract import extract
from empatheia_jax.weights import save_weights

pytest.importorskip("espeakng_loader")
SPEECH = """        generators=GeneratorConfig(speech="styletts2", speech_weights={weights!r}),
        optim="""


@pytest.fixture(scope="module")
def weights(tmp_path_factory, seed) -> Path:
    folder = tmp_path_factory.mktemp("styletts2") / "weights"
    save_weights(folder, SMALL, nnx.state(make(SMALL, seed)))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def config(weights) -> Config:
    return Config(generators=GeneratorConfig(speech="styletts2", speech_weights=str(weights)))


@pytest.fixture(scope="module")
def store(config, corpus) -> FeatureStore:
    counts = extract(config, corpus, corpus / "features", workers=2, progress=False)
    assert counts["gold"] == 10 and counts["rejected"] == 0
    return FeatureStore(corpus / "features")


def test_golds_are_the_generators_own_words_on_its_recordings(config, corpus, store, weights):
    speech, face = build_generators(config.generators)
    (content_dim, style_dim), _ = generator_widths(config.generators)
    assert store.settings["speech"] == {
        "name": "styletts2", "content_dim": content_dim, "style_dim": style_dim, "version": 1,
        "weights": speech.stages.sha256,
    }  # fmt: skip
    example = read_examples(corpus, "train")[0][0]
    gold = store[example.utterance_key(example.response)]
    ids = speech.phonemes(example.response.text)
    np.testing.assert_array_equal(gold["phonemes"], ids)
    content = speech.content(ids)
    assert np.abs(gold["content_speech"] - content).max() <= 2e-3 * np.abs(content).max()  # stored as float16
    assert gold["style_speech"].shape == (style_dim,)
    assert gold["phoneme_frames"].sum() == 40  # a second
    assert gold["content_video"].shape == (video_frame_count(gold["phoneme_frames"]), face.content_dim)


def test_settings_that_do_not_fit_are_refused(weights, tmp_path):
    for generators, says in (
        (GeneratorConfig(speech="styletts2"), "speech_weights is empty"),
        (GeneratorConfig(speech_weights=str(weights)), "has no weights"),
        (GeneratorConfig(style_refine="diffusion"), "no diffusion"),
        (GeneratorConfig(speech="torch"), "'classical' and 'styletts2'"),
    ):
        with pytest.raises(ConfigError, match=says):
            build_generators(generators)
    with pytest.raises(ValueError, match="no converted weights"):
        build_generators(GeneratorConfig(speech="styletts2", speech_weights=str(tmp_path)))


@pytest.mark.slow
def test_latents_trained_on_it_are_spoken_by_it(corpus, store, weights, tmp_path, seed):
    trainer = Trainer(tmp_path, ALL_STAGES)
    text = ALL_STAGES.replace("        optim=", SPEECH).replace("{weights!r}", repr(str(weights)))
    trainer.config.write_text(text.format(path=str(corpus)))
    code, _, err = trainer.finish(trainer.start("run"))
    assert code == 0, err
    engine = Engine(tmp_path / "run")
    speech, face = build_generators(engine.config.generators, face_size=64)
    example = read_examples(corpus, "train")[0][0]
    (answer,) = engine.answer([example], store.get, [None])
    # Four epochs teach no grammar: the response is given, the states are what the model has of one.
    said = parse_generated("Response: I saw the river again.")
    states = np.random.default_rng(seed).normal(size=(6, engine.config.llm.width)).astype(np.float32)
    answer = dataclasses.replace(answer, response_states=states, parsed=dataclasses.replace(said, response="I saw it."))
    assert answer.style_speech.shape == (speech.style_dim,)
    portrait = choose_avatar(example.listener_profile).portrait
    for source in ("generator", "synchronizer"):
        performance = perform(engine, speech, face, answer, portrait, source)
        audio = performance.speech.audio
        assert len(audio) == 600 * performance.speech.phoneme_frames.sum() and np.abs(audio).max() > 0
        assert len(performance.frames) == video_frame_count(performance.speech.phoneme_frames)
        assert (performance.agreement is None) == (source == "generator")
    other = tmp_path / "other"
    save_weights(other, SMALL, nnx.state(make(SMALL, seed + 1)))
    with pytest.raises(StoreError, match=r"speech\.weights"):
        Engine(
            tmp_path / "run",
            generators=dataclasses.replace(engine.config.generators, speech_weights=str(other)),
        )
