"""Converted HuBERT and CLIP as encoders of a run, compared with torch; and the command itself."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.convert import convert, open_source
from converters.tensors import ConversionError
from empatheia_jax.config import ConfigError
from empatheia_jax.encoders.clip import DEVIATION, MEAN, ClipVideo
from empatheia_jax.encoders.hubert import HubertAudio, HubertConfig
from support.random_checkpoints import draw, save

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of the output's largest value, float32


@pytest.fixture(scope="module")
def hubert(seed, tmp_path_factory):
    """Return our config, torch's model and its folder."""
    model, folder = draw("hubert", seed), tmp_path_factory.mktemp("hubert")
    save(model, folder)
    return open_source("hubert", folder).config, model, folder


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("salt", [0, 1, 2])
@pytest.mark.parametrize("form", ["safetensors", "old_names_in_a_head"])
def test_hubert_hears_as_torch_does(salt, form, seed, tmp_path):
    model, source = draw("hubert", seed + salt), tmp_path / "source"
    rng = np.random.default_rng([seed, salt])
    save(model, source)
    if form == "old_names_in_a_head":
        for file in source.glob("model*"):
            file.unlink()
        state = dict(model.state_dict())
        older_names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for newer, older in older_names.items():
            name = f"encoder.pos_conv_embed.conv.{newer}"
            state[name.replace(newer, older)] = state.pop(name)
        state = {f"hubert.{name}": tensor for name, tensor in state.items()} | {"lm_head.weight": torch.zeros(4, 4)}
        torch.save(state, source / "pytorch_model.bin")
    counts = convert("hubert", source, tmp_path / "converted")
    assert counts["numbers"] == sum(p.numel() for n, p in model.named_parameters() if n != "masked_spec_embed")
    encoder = HubertAudio(open_source("hubert", source).config, str(tmp_path / "converted"), segments=3)
    waveform = rng.normal(size=2400).astype(np.float32)
    with torch.no_grad():
        hidden = model(torch.tensor(waveform)[None]).last_hidden_state[0].numpy()
    n = len(hidden)
    expected = np.stack([hidden[i * n // 3 : -(-(i + 1) * n // 3)].mean(axis=0) for i in range(3)])
    assert_close(encoder.encode([waveform])[0], expected)


def test_clip_sees_as_torch_does_out_of_a_whole_clip(seed, tmp_path):
    rng, model = np.random.default_rng(seed), draw("clip", seed)
    save(model, tmp_path / "source")
    counts = convert("clip", tmp_path / "source", tmp_path / "converted")
    assert counts["left_aside"] > 0
    encoder = ClipVideo(open_source("clip", tmp_path / "source").config, str(tmp_path / "converted"), frames=2)
    clip = encoder.preprocess(rng.integers(0, 256, (5, 30, 40, 3), np.uint8))
    pixels = ((clip / 255.0 - np.array(MEAN)) / np.array(DEVIATION)).astype(np.float32)
    with torch.no_grad():
        expected = model.vision_model(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output.numpy()
    assert_close(encoder.encode([clip])[0], expected)


@pytest.mark.slow
def test_bfloat16_weights_serve_a_float32_encoder_and_the_other_way(hubert, tmp_path):
    hubert_config, _, folder = hubert
    waveform = np.random.default_rng(0).normal(size=1500).astype(np.float32)
    results = {}
    for stored in ("float32", "bfloat16"):
        convert("hubert", folder, tmp_path / stored, stored)
        for used in ("float32", "bfloat16"):
            config = dataclasses.replace(hubert_config, compute_dtype=used, param_dtype=used)
            encoder = HubertAudio(config, str(tmp_path / stored), segments=2)
            results[stored, used] = encoder.encode([waveform])[0], encoder.settings()
    settings = [json.dumps(setting, sort_keys=True) for _, setting in results.values()]
    assert len(set(settings)) == 4  # other weights or other arithmetic give other features
    exact = results["float32", "float32"][0]
    for (stored, used), (features, _) in results.items():
        tolerance = 1e-6 if (stored, used) == ("float32",) * 2 else 0.1
        assert np.abs(features - exact).max() <= tolerance * np.abs(exact).max()


def test_settings_that_our_network_does_not_have_are_refused(hubert, tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(hubert[2], folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_act": "relu"}))
    with pytest.raises(ConversionError, match="hidden_act is 'relu'"):
        convert("hubert", folder, tmp_path / "converted")
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    with pytest.raises(ConversionError, match="do_normalize"):
        convert("hubert", folder, tmp_path / "converted")


def test_the_command(hubert, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "converters", "hubert", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    completed = run("--input", hubert[2], "--output", tmp_path / "converted")
    assert completed.returncode == 0 and "numbers" in completed.stdout, completed.stderr
    again = run("--input", hubert[2], "--output", tmp_path / "converted")
    assert again.returncode == 2 and "is there already" in again.stderr
    with pytest.raises(ConfigError, match="another architecture"):
        HubertAudio(HubertConfig.small(), str(tmp_path / "converted")).settings()
