"""A feature store whose gold styles Kokoro constructs: no recording's style is read; what cannot be known is told."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import Config, GeneratorConfig
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.emotions import FINE_TO_AVATAR
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.generators.avatars import choose_avatar
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.styletts2.voices import speech_style_for
from empatheia_jax.inference.load import load_engine
from empatheia_jax.inference.synthesis import synthesize
from empatheia_jax.preparation.extract import extract
from empatheia_jax.preparation.extractor import Extractor
from empatheia_jax.preparation.jobs import ExtractError, collect_jobs
from empatheia_jax.testing.corpus import write_corpus
from empatheia_jax.testing.tiny_generators import KOKORO, make_styletts2
from support.trainer import Trainer

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def config(tmp_path_factory, seed) -> Config:
    folder = tmp_path_factory.mktemp("kokoro") / "weights"
    save_weights(folder, KOKORO, nnx.state(make_styletts2(KOKORO, seed)))
    return Config(generators=GeneratorConfig(speech="kokoro", speech_weights=str(folder)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_gold_styles_are_those_of_the_listener_and_the_emotion(config, corpus):
    counts = extract(config, corpus, corpus / "features", workers=1, progress=False)
    assert counts["gold"] == 10 and counts["rejected"] == counts["references_padded"] == 0
    store, (voice, _) = FeatureStore(corpus / "features"), build_generators(config.generators)
    assert store.settings["speech"]["name"] == "kokoro" and store.settings["speech"]["style_dim"] == 260
    for example in read_examples(corpus, "train")[0]:
        gold = store[example.utterance_key(example.response)]
        style = speech_style_for(example.listener_profile, FINE_TO_AVATAR[example.chain.speaker_emotion])
        np.testing.assert_allclose(gold["style_speech"], style, atol=2e-3)  # stored as float16
        ids = voice.phonemes(example.response.text)
        np.testing.assert_array_equal(gold["phonemes"], ids)
        assert ids[-1] == 0 and gold["content_speech"].shape == (len(ids), voice.content_dim)
        assert gold["phoneme_frames"].sum() == 40  # a second, as the recording


def test_a_turn_whose_voice_or_emotion_is_unknown_is_rejected_with_its_reason(config, corpus):
    jobs, _ = collect_jobs(config, corpus, "stop")
    job = dataclasses.replace(next(job for job in jobs if job.text), performance=None)
    arrays, rejected, _ = Extractor(config)(job)
    assert "phonemes" not in arrays and [entry["modality"] for entry in rejected] == ["gold"]
    assert "profile and the speaker_emotion" in rejected[0]["error"] and str(job.audio) in rejected[0]["error"]
    assert issubclass(ExtractError, ValueError) and json.dumps(rejected)


@pytest.mark.slow
def test_latents_trained_on_it_drive_it(config, corpus, tmp_path, seed):
    extract(config, corpus, corpus / "features", workers=1, progress=False)
    weights = config.generators.speech_weights
    flags = ("--generators.speech", "kokoro", "--generators.speech-weights", weights)
    Trainer(tmp_path, *flags, config="all_stages", data=corpus).run("run")
    engine = load_engine(tmp_path / "run")
    speech, face = build_generators(engine.config.generators, face_size=64)
    example = read_examples(corpus, "train")[0][0]
    (answer,) = engine.answer([example], FeatureStore(corpus / "features").get, [None])
    assert answer.style_speech.shape == (260,) and np.isfinite(answer.style_speech).all()
    # Four epochs teach no grammar, so the response is fixed and its states are random.
    states = np.random.default_rng(seed).normal(size=(6, engine.config.llm.width)).astype(np.float32)
    answer = dataclasses.replace(
        answer, response_states=states, parsed=dataclasses.replace(answer.parsed, response="I saw it.")
    )
    portrait = choose_avatar(example.listener_profile).portrait
    for source in ("generator", "synchronizer"):
        spoken = synthesize(engine, speech, face, answer, portrait=portrait, source=source).speech
        assert len(spoken.audio) == 600 * spoken.phoneme_frames.sum() and np.abs(spoken.audio).max() > 0
    save_weights(tmp_path / "other", KOKORO, nnx.state(make_styletts2(KOKORO, seed + 1)))
    other = dataclasses.replace(engine.config.generators, speech_weights=str(tmp_path / "other"))
    with pytest.raises(StoreError, match=r"speech\.weights"):
        load_engine(tmp_path / "run", generators=other)
