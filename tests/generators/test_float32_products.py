"""Products of float32 arrays in frozen networks and latents ask every accelerator for float32: read from the programs.

The programs are lowered for a TPU from shapes; nothing is compiled or computed.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork
from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import MeshConfig
from empatheia_jax.encoders.clip import ClipVideo, ClipVisionConfig
from empatheia_jax.encoders.hubert import HubertAudio, HubertConfig
from empatheia_jax.generators.dreamtalk.networks import Networks as DreamTalk
from empatheia_jax.generators.styletts2.networks import Networks as StyleTTS2Networks
from empatheia_jax.inference.engine import Engine
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.testing.tiny import WIDTHS, make_tokenizer, replace_fields, small_config
from empatheia_jax.testing.tiny_generators import (
    DREAMTALK,
    STYLETTS2_KINDS,
    make_styletts2,
    write_dreamtalk_weights,
)

PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.*")


def products(text: str) -> tuple[int, int, list[str]]:
    """Count the products of float32 and of bfloat16 arrays, and list those of float32 arrays that may be rounded."""
    lines = PRODUCT.findall(text)
    full = [line for line in lines if re.search(r": \(tensor<[^>]*f32>, tensor<[^>]*f32>\)", line)]
    narrow = [line for line in lines if re.search(r": \(tensor<[^>]*bf16>, tensor<[^>]*bf16>\)", line)]
    assert len(full) + len(narrow) == len(lines) > 0
    rounded = [line for line in full if not re.search(r"precision\w* ?= ?\[[^]]*HIGHEST[^]]*HIGHEST", line)]
    return len(full), len(narrow), rounded


@pytest.fixture
def programs(monkeypatch):
    """Lower the programs of frozen networks instead of compiling them; they return zeros. Yields their texts."""
    texts = []

    def lower(self, forward):
        def call(*arrays):
            traced = self.trace(forward).trace(self.abstract(), *arrays)
            texts.append(traced.lower(lowering_platforms=("tpu",)).as_text())
            return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), traced.out_info)

        return call

    monkeypatch.setattr(FrozenNetwork, "compile", lower)
    return texts


def check(texts: list[str], count: int, *, bfloat16: bool = False) -> None:
    assert len(texts) == count
    counted = [products(text) for text in texts]
    assert all(rounded == [] for _, _, rounded in counted)
    assert sum(float32_products for float32_products, _, _ in counted) > 0
    assert (sum(bfloat16_products for _, bfloat16_products, _ in counted) > 0) == bfloat16


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("hifigan", "bfloat16"),
        pytest.param("hifigan", "float32", marks=pytest.mark.slow),
        pytest.param("istftnet", "float32", marks=pytest.mark.slow),
        pytest.param("istftnet", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_pitch_durations_and_styles_of_styletts2(tmp_path, programs, kind, dtype):
    config = STYLETTS2_KINDS[kind]
    save_weights(tmp_path, config, nnx.state(make_styletts2(config, 0)))
    networks = StyleTTS2Networks(tmp_path, dtype)
    (content,) = networks.encode_text([np.arange(9)])
    style = np.zeros(2 * config.style_dim, np.float32)
    networks.style([np.zeros((80, 80), np.float32)])
    networks.durations([content], [style])
    words = [np.zeros((9, config.plbert_hidden), np.float32)]
    networks.sample_style(words, [style] if config.multispeaker else None, [0], 3, scale=1.0)
    networks.speak([content], [style], [np.full(9, 2)], [0])
    check(programs[:4], 4)  # text, timing and style are float32, whatever the decoder's dtype
    check(programs, 5, bfloat16=dtype == "bfloat16")


@pytest.mark.slow
def test_motion_coefficients_and_pictures_of_dreamtalk(tmp_path, programs):
    networks = DreamTalk(write_dreamtalk_weights(tmp_path, 0), steps=2)
    features = networks.audio_features(np.zeros(8000, np.float32))
    content = networks.content(features, 6)
    width = networks.config.expression_dim
    networks.sample_expression(content, networks.style(np.zeros((9, width), np.float32)))
    size = DREAMTALK["renderer"][1].size
    list(networks.render(np.zeros((size, size, 3), np.uint8), np.zeros((3, 73), np.float32)))
    networks.coefficients(np.zeros((2, 224, 224, 3), np.uint8))
    check(programs, 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_of_encoders(programs, dtype):
    hubert, clip = (
        dataclasses.replace(config.tiny(), compute_dtype=dtype, param_dtype=dtype)
        for config in (HubertConfig, ClipVisionConfig)
    )
    audio, video = HubertAudio(hubert, "random"), ClipVideo(clip, "random", frames=2)
    audio.encode([np.zeros(9000, np.float32)])
    video.encode([np.zeros(video.input_shape, np.uint8)])
    check(programs, 2, bfloat16=dtype == "bfloat16")


def test_style_and_content_that_an_engine_reads():
    config = replace_fields(small_config(), "llm", compute_dtype="bfloat16", layers=1)
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    engine = Engine(nnx.merge(*abstract_model(config, WIDTHS, mesh)), make_tokenizer(), config)
    states, mask = np.zeros((1, 32, config.llm.width), np.float32), np.ones((1, 32), bool)
    ids, timing = np.zeros((1, 32), np.int32), np.ones((1, 32), np.int32)
    index = np.ones(1, np.int32)
    decode_state = jax.eval_shape(lambda: engine.empty_decode_state(1, 256))
    traced = [
        engine._read.trace(
            engine.state,
            decode_state,
            index,
            np.zeros((1, 64), np.int32),
            start=index,
            lengths=index,
            signal_start=index,
        ),
        engine._speech.trace(engine.state, states, mask, ids),
        engine._video.trace(
            engine.state, states, mask, phonemes=ids, phoneme_frames=timing, video_frames=index, frames=32
        ),
    ]
    texts = [program.lower(lowering_platforms=("tpu",)).as_text() for program in traced]
    check(texts[:1], 1, bfloat16=True)  # the LLM computes in its own dtype
    check(texts[1:], 2)
