"""HuBERT and CLIP checkpoints as transformers writes them -> folders that encoders read, equal to the torch models."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from converters.convert import convert  # noqa: E402
from converters.readers import ConversionError, open_checkpoint  # noqa: E402
from empatheia_jax.config import ConfigError  # noqa: E402
from empatheia_jax.encoders.clip import ClipVisionConfig  # noqa: E402
from empatheia_jax.encoders.clip_video import DEVIATION, MEAN, ClipVideo  # noqa: E402
from empatheia_jax.encoders.hubert import HubertConfig  # noqa: E402
from empatheia_jax.encoders.hubert_audio import HubertAudio  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of the output's scale, float32


def hubert_twin(rng: np.random.Generator, large: bool):
    width, heads = 4 * int(rng.integers(4, 9)), 4
    ours = HubertConfig(
        width=width, layers=int(rng.integers(1, 4)), heads=heads, mlp_width=int(rng.integers(20, 60)), pre_norm=large,
        conv_dim=(12, 14, 10), conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), conv_bias=large,
        feat_extract_norm="layer" if large else "group", num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    config = transformers.HubertConfig(
        hidden_size=width, num_hidden_layers=ours.layers, num_attention_heads=heads, intermediate_size=ours.mlp_width,
        conv_dim=list(ours.conv_dim), conv_kernel=list(ours.conv_kernel), conv_stride=list(ours.conv_stride),
        conv_bias=large, feat_extract_norm=ours.feat_extract_norm, do_stable_layer_norm=large,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return ours, randomised(transformers.HubertModel(config))


def clip_twin(rng: np.random.Generator):
    ours = ClipVisionConfig(
        width=4 * int(rng.integers(4, 9)), layers=int(rng.integers(1, 4)), heads=4, mlp_width=int(rng.integers(20, 60)),
        image_size=24, patch_size=8,
    )  # fmt: skip
    vision = {
        "hidden_size": ours.width, "num_hidden_layers": ours.layers, "num_attention_heads": 4,
        "intermediate_size": ours.mlp_width, "image_size": 24, "patch_size": 8,
    }  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text | {"vocab_size": 50, "projection_dim": 8})
    return ours, randomised(transformers.CLIPModel(config))


def randomised(model):
    """Every parameter far from its start, norms and biases too."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture(scope="module")
def hubert(seed, tmp_path_factory):
    torch.manual_seed(seed)
    ours, twin = hubert_twin(np.random.default_rng(seed), large=bool(seed % 2))
    folder = tmp_path_factory.mktemp("hubert")
    twin.save_pretrained(folder, max_shard_size="20KB")
    return ours, twin, folder


def assert_close(ours, theirs):
    scale = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= TOLERANCE * scale


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("form", ["safetensors", "bin", "old_names_in_a_head"])
def test_hubert_hears_as_torch_does(large, form, seed, tmp_path):
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, large])
    ours, twin = hubert_twin(rng, large)
    source = tmp_path / "source"
    twin.save_pretrained(source, max_shard_size="20KB")
    if form != "safetensors":
        for file in source.glob("model*"):
            file.unlink()
        state = dict(twin.state_dict())
        if form == "old_names_in_a_head":
            spelt = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
            for newer, older in spelt.items():
                name = f"encoder.pos_conv_embed.conv.{newer}"
                state[name.replace(newer, older)] = state.pop(name)
            state = {f"hubert.{name}": tensor for name, tensor in state.items()} | {"lm_head.weight": torch.zeros(4, 4)}
        torch.save(state, source / "pytorch_model.bin")
    else:
        assert len(list(source.glob("*.safetensors"))) > 1
    counts = convert("hubert", source, tmp_path / "converted")
    assert counts["numbers"] == sum(p.numel() for n, p in twin.named_parameters() if n != "masked_spec_embed")
    encoder = HubertAudio(ours, str(tmp_path / "converted"), segments=3)
    waveform = rng.normal(size=2400).astype(np.float32)
    with torch.no_grad():
        hidden = twin(torch.tensor(waveform)[None]).last_hidden_state[0].numpy()
    n = len(hidden)
    wanted = np.stack([hidden[i * n // 3 : -(-(i + 1) * n // 3)].mean(axis=0) for i in range(3)])
    assert_close(encoder.encode([waveform])[0], wanted)


def test_clip_sees_as_torch_does_out_of_a_whole_clip(seed, tmp_path):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    ours, twin = clip_twin(rng)
    twin.save_pretrained(tmp_path / "source")
    counts = convert("clip", tmp_path / "source", tmp_path / "converted")
    assert counts["left_aside"] > 0
    encoder = ClipVideo(ours, str(tmp_path / "converted"), frames=2)
    clip = encoder.preprocess(rng.integers(0, 256, (5, 30, 40, 3), np.uint8))
    pixels = ((clip / 255.0 - np.array(MEAN)) / np.array(DEVIATION)).astype(np.float32)
    with torch.no_grad():
        wanted = twin.vision_model(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output.numpy()
    assert_close(encoder.encode([clip])[0], wanted)


def test_bfloat16_weights_serve_a_float32_encoder_and_the_other_way(hubert, tmp_path):
    ours, _, folder = hubert
    waveform = np.random.default_rng(0).normal(size=1500).astype(np.float32)
    found = {}
    for stored in ("float32", "bfloat16"):
        convert("hubert", folder, tmp_path / stored, stored)
        for used in ("float32", "bfloat16"):
            config = dataclasses.replace(ours, compute_dtype=used, param_dtype=used)
            encoder = HubertAudio(config, str(tmp_path / stored), segments=2)
            found[stored, used] = encoder.encode([waveform])[0], encoder.settings()
    settings = [json.dumps(setting, sort_keys=True) for _, setting in found.values()]
    assert len(set(settings)) == 4  # other weights or other arithmetic: other features
    exact = found["float32", "float32"][0]
    for (stored, used), (features, _) in found.items():
        most = 1e-6 if (stored, used) == ("float32",) * 2 else 0.1
        assert np.abs(features - exact).max() <= most * np.abs(exact).max()


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def mutated(how: str, folder: Path, rng: np.random.Generator, trap: Path) -> str:
    """Spoil the checkpoint in `folder`; returns what the error must say."""
    state = {name: np.array(tensor.read()) for name, tensor in open_checkpoint(folder).items()}
    victims = [n for n in state if "masked" not in n]
    name = victims[int(rng.integers(len(victims)))]
    matrices = [n for n in victims if state[n].ndim == 2 and state[n].shape[0] != state[n].shape[1]]
    says = name
    if how == "dropped":
        del state[name]
    elif how == "renamed":
        state[name + "x"] = state.pop(name)
    elif how == "extra":
        state["encoder.layers.0.adapter.weight"] = np.zeros(3, np.float32)
        says = "adapter"
    elif how == "transposed":
        says = matrices[int(rng.integers(len(matrices)))]
        state[says] = np.ascontiguousarray(state[says].T)
    elif how == "integers":
        state[name] = state[name].astype(np.int32)
    for file in folder.glob("model*"):
        file.unlink()
    if how == "hostile":
        tensors = {n: torch.from_numpy(v) for n, v in state.items()} | {"trap": Hostile(trap)}
        torch.save(tensors, folder / "pytorch_model.bin")
        return "asks for"
    if how == "hostile_zip":
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Hostile(trap)))
        return "asks for"
    from safetensors.numpy import save_file

    save_file(state, str(folder / "model.safetensors"))
    if how == "truncated":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: -int(rng.integers(1, 2000))])
        return "truncated"
    return says


HOW = ("dropped", "renamed", "extra", "transposed", "integers", "truncated", "hostile", "hostile_zip")


@pytest.mark.parametrize("number", range(3 * len(HOW)))
def test_a_spoilt_checkpoint_is_refused_and_nothing_is_written(hubert, number, seed, tmp_path):
    folder, trap = tmp_path / "source", tmp_path / "executed"
    shutil.copytree(hubert[2], folder)
    says = mutated(HOW[number % len(HOW)], folder, np.random.default_rng([seed, number]), trap)
    with pytest.raises(ConversionError) as refused:
        convert("hubert", folder, tmp_path / "converted")
    assert says in str(refused.value)
    assert not trap.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_shards_that_the_index_does_not_describe_are_refused(hubert, tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(hubert[2], folder)
    sorted(folder.glob("model-*"))[0].unlink()
    with pytest.raises(ConversionError, match="is not there"):
        convert("hubert", folder, tmp_path / "converted")


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
    def run(*words):
        command = [sys.executable, "-m", "converters", "hubert", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run("--input", hubert[2], "--output", tmp_path / "converted")
    assert done.returncode == 0 and "numbers" in done.stdout, done.stderr
    again = run("--input", hubert[2], "--output", tmp_path / "converted")
    assert again.returncode == 2 and "is there already" in again.stderr
    with pytest.raises(ConfigError, match="another architecture"):
        HubertAudio(HubertConfig.small(), str(tmp_path / "converted")).settings()
