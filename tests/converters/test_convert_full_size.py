"""HuBERT-large and CLIP ViT-L/14@336 at their published shapes with random weights: converted, they compute as torch.

Run by `make test-large`; takes two minutes on two cores.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from converters.convert import convert, open_source
from empatheia_jax.encoders.clip import DEVIATION, MEAN, ClipVideo, ClipVisionConfig
from empatheia_jax.encoders.hubert import HubertAudio, HubertConfig, segment_means

pytestmark = pytest.mark.large
TOLERANCE = 1e-4  # of the output's largest value


def write(model, folder, seed):
    """Save the model as published, float32 in one file, with biases and norms moved from their initial values."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim < 2:
                weight.add_(0.1 * torch.randn_like(weight))
    model.eval().save_pretrained(folder)


def assert_close(actual, expected, record_property):
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    record_property("relative_error", f"{error:.1e}")
    assert error <= TOLERANCE


def test_hubert_large_hears_three_seconds(seed, tmp_path, record_property):
    config = transformers.HubertConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    model = transformers.HubertModel(config)
    write(model, tmp_path / "source", seed)
    assert open_source("hubert", tmp_path / "source").config == HubertConfig.large()
    counts = convert("hubert", tmp_path / "source", tmp_path / "weights")
    assert counts["numbers"] == 315_437_696
    encoder = HubertAudio(HubertConfig.large(), str(tmp_path / "weights"), segments=32)
    speech = encoder.preprocess(np.random.default_rng(seed).normal(0.0, 0.1, 48_000).astype(np.float32))
    with torch.no_grad():
        hidden = model(torch.tensor(speech)[None]).last_hidden_state.numpy()
    expected = np.asarray(segment_means(hidden, np.array([hidden.shape[1]]), 32))[0]
    assert_close(encoder.encode([speech])[0], expected, record_property)


def test_clip_vit_l_14_336_sees_sixteen_frames(seed, tmp_path, record_property):
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=336,
        patch_size=14,
    )
    model = transformers.CLIPVisionModel(config)
    write(model, tmp_path / "source", seed)
    assert open_source("clip", tmp_path / "source").config == ClipVisionConfig.vit_l_14_336()
    counts = convert("clip", tmp_path / "source", tmp_path / "weights")
    assert counts["numbers"] == 303_507_456
    encoder = ClipVideo(ClipVisionConfig.vit_l_14_336(), str(tmp_path / "weights"), frames=16)
    clip = encoder.preprocess(np.random.default_rng(seed).integers(0, 256, (16, 360, 480, 3), np.uint8))
    pixels = ((clip / 255.0 - np.array(MEAN)) / np.array(DEVIATION)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output.numpy()
    assert_close(encoder.encode([clip])[0], expected, record_property)
