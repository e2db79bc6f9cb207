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
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.styletts2.voices import speech_style_for
from empatheia_jax.preparation.extract import extract
from empatheia_jax.preparation.extractor import Extractor
from empatheia_jax.preparation.jobs import ExtractError, collect_jobs
from empatheia_jax.testing.corpus import write_corpus
from empatheia_jax.testing.tiny_generators import KOKORO, make_styletts2

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
