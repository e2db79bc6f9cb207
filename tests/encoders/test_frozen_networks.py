"""HuBERT and CLIP as encoders of a run: published preprocessing, independence of the batch, weights by identity."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import ConfigError, EncoderConfig
from empatheia_jax.encoders import EncoderError, build_encoders
from empatheia_jax.encoders.clip import DEVIATION, MEAN, ClipVideo, ClipVision, ClipVisionConfig
from empatheia_jax.encoders.hubert import Hubert, HubertAudio, HubertConfig, segment_means

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HUBERT = HubertConfig.tiny()
CLIP = ClipVisionConfig.tiny()
RANDOM = EncoderConfig(
    audio="hubert", video="clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def hubert_folder(tmp_path_factory):
    """Save a HuBERT whose biases and norms are far from their initial values."""
    module = Hubert(HUBERT, rngs=nnx.Rngs(5))
    state = nnx.state(module)
    draws = np.random.default_rng(1)
    nnx.update(module, jax.tree.map(lambda x: x + 0.1 * draws.normal(size=x.shape).astype(x.dtype), state))
    folder = tmp_path_factory.mktemp("weights") / "hubert"
    save_weights(folder, HUBERT, nnx.state(module))
    return folder, module


def test_waveforms_are_scaled_as_published(rng):
    extractor = pytest.importorskip("transformers").Wav2Vec2FeatureExtractor(do_normalize=True)
    audio = (0.1 * rng.normal(size=9000) + 0.02).astype(np.float32)
    expected = extractor(audio, sampling_rate=16_000, return_tensors="np")["input_values"][0]
    np.testing.assert_allclose(HubertAudio(HUBERT, "random").preprocess(audio), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (20, 20), (24, 24), (337, 121)])
def test_pictures_are_prepared_as_published(rng, size):
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    frames = rng.integers(0, 256, (3, *size, 3), np.uint8)
    encoder = ClipVideo(CLIP, "random", frames=3)
    prepared = encoder.preprocess(frames)
    assert prepared.dtype == np.uint8 and prepared.shape == encoder.input_shape
    expected = processor(list(frames), return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    np.testing.assert_array_equal(prepared, np.moveaxis(np.asarray(expected), 1, -1))
    assert processor.image_mean == pytest.approx(np.array(MEAN))
    assert processor.image_std == pytest.approx(np.array(DEVIATION))


@pytest.mark.parametrize("frames", [1, 3, 8, 9, 50])
def test_segment_means_are_means_of_equal_parts(rng, frames):
    hidden = rng.normal(size=(1, 60, 5)).astype(np.float32)
    means = np.asarray(segment_means(hidden, np.array([frames]), 8))[0]
    for part in range(8):
        first, after = part * frames // 8, -(-(part + 1) * frames // 8)
        assert 0 <= first < after <= frames
        np.testing.assert_allclose(means[part], hidden[0, first:after].mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_an_utterance_is_heard_as_if_it_were_alone(hubert_folder, rng):
    folder, module = hubert_folder
    encoder = HubertAudio(HUBERT, str(folder), segments=4)
    # 15 samples are less than a frame; 40,000 samples fall into another bucket than the others.
    media = [rng.normal(size=n).astype(np.float32) for n in (2_000, 15, 15_999, 40_000, 3_000, 7_001)]
    prepared = [encoder.preprocess(audio) for audio in media]
    features = encoder.encode(prepared)
    assert features.shape == (6, *encoder.feature_shape)
    alone = jax.jit(lambda waveform, length: module(waveform, length)[0])
    for audio, feature in zip(prepared, features, strict=True):
        hidden = np.asarray(alone(audio[None], np.array([len(audio)])))[0]
        frames = len(hidden)
        parts = [hidden[i * frames // 4 : -(-(i + 1) * frames // 4)].mean(axis=0) for i in range(4)]
        np.testing.assert_allclose(feature, parts, atol=2e-5 * np.abs(hidden).max())


def test_frames_are_seen_as_if_they_were_alone(rng):
    module = ClipVision(CLIP, rngs=nnx.Rngs(0))
    encoder = ClipVideo(CLIP, "random", frames=3)
    clips = [encoder.preprocess(rng.integers(0, 256, (7, 30, 40, 3), np.uint8)) for _ in range(11)]
    features = encoder.encode(clips)
    assert features.shape == (11, 3, 32)
    mean, deviation = (np.array(c, np.float32) for c in (MEAN, DEVIATION))
    for clip, feature in ((clips[0], features[0]), (clips[10], features[10])):
        pooled = np.asarray(module((clip / np.float32(255) - mean) / deviation)[1])
        np.testing.assert_allclose(feature, pooled, atol=2e-5 * np.abs(pooled).max())


def test_identity_is_of_the_weights(hubert_folder, tmp_path):
    folder, module = hubert_folder
    settings = HubertAudio(HUBERT, str(folder)).settings()
    assert json.loads(json.dumps(settings)) == settings
    moved = tmp_path / "moved"
    save_weights(moved, HUBERT, nnx.state(module))
    assert HubertAudio(HUBERT, str(moved)).settings() == settings
    module = nnx.clone(module)
    module.norm.bias[...] = module.norm.bias[...].at[0].add(1e-6)
    other = tmp_path / "other"
    save_weights(other, HUBERT, nnx.state(module))
    assert HubertAudio(HUBERT, str(other)).settings() != settings
    assert HubertAudio(HUBERT, "random").settings() != settings


def test_weights_that_cannot_be_used_are_refused_before_they_are_read(hubert_folder, tmp_path):
    folder, _ = hubert_folder
    with pytest.raises(ConfigError, match=r"encoders.hubert_weights is empty"):
        HubertAudio(HUBERT, "").settings()
    with pytest.raises(ConfigError, match=r"no weights in"):
        HubertAudio(HUBERT, str(tmp_path)).settings()
    with pytest.raises(ConfigError, match=r"another architecture \(heads, num_conv_pos_embeddings\)"):
        HubertAudio(dataclasses.replace(HUBERT, heads=2, num_conv_pos_embeddings=4), str(folder)).settings()
    with pytest.raises(ConfigError, match=r"encoders.clip_weights"):
        build_encoders(dataclasses.replace(RANDOM, clip_weights=""))["video"].settings()


def test_media_that_are_none_are_refused():
    encoders = build_encoders(RANDOM)
    for media in (np.zeros(0, np.float32), np.zeros(5, np.int16), np.full(500, np.nan, np.float32)):
        with pytest.raises(EncoderError):
            encoders["audio"].preprocess(media)
    with pytest.raises(EncoderError):
        encoders["video"].preprocess(np.zeros((2, 8, 8, 3), np.float32))


def test_both_presets_of_a_config_are_what_they_say():
    encoders = build_encoders(dataclasses.replace(RANDOM, compute_dtype="bfloat16"))
    assert encoders["audio"].feature_shape == (32, 128) and encoders["video"].feature_shape == (8, 128)
    assert encoders["audio"].config.frame_count(16_000) == 49
    assert encoders["audio"].config.compute_dtype == encoders["audio"].config.param_dtype == "bfloat16"
    published = build_encoders(EncoderConfig(audio="hubert", video="clip"))
    assert published["audio"].feature_shape == (32, 1024) and published["video"].feature_shape == (8, 1024)
