"""Every family, dtype and file format compared with torch, and exported again bit for bit."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from converters.convert import convert, open_source
from converters.export import export_weights
from converters.tensors import ConversionError
from converters.verify import verify
from empatheia_jax.checkpoints.weights import read_index, read_metadata
from empatheia_jax.config import LlamaConfig, RopeScaling
from empatheia_jax.config.load import load_llm_config
from support.random_checkpoints import FAMILIES, draw, read_all, replace_weights, save

CASES = [
    (family, form, dtype)
    for family in FAMILIES
    for form, dtype in (
        ("safetensors", "float32"),
        ("safetensors", "bfloat16"),
        ("bin", "float16"),
        ("legacy", "bfloat16"),
    )
    if form == "safetensors" or family in ("vicuna", "hubert")  # torch's files are read the same way for all
]


# Quick: every family in float32 and every form of one family. The rest is slow, a dozen seconds each.
MARKED_CASES = [
    case if case[2] == "float32" or case[0] == "vicuna" else pytest.param(*case, marks=pytest.mark.slow)
    for case in CASES
]


@pytest.mark.parametrize(("family", "form", "dtype"), MARKED_CASES)
def test_it_computes_what_torch_does_and_comes_back_bit_for_bit(family, form, dtype, *, seed, tmp_path):
    model = draw(family, seed + CASES.index((family, form, dtype)))
    source, weights = tmp_path / "source", tmp_path / "weights"
    save(model, source, form, dtype)
    counts = convert(family, source, weights)
    report = verify(family, source, weights, seed)
    assert report.good and report.tolerance == 1e-4, report.lines()
    assert {entry["dtype"] for entry in read_index(weights).values()} == {dtype}  # unchanged
    export_weights(weights, tmp_path / "back")
    before, after = read_all(source), read_all(tmp_path / "back")
    tower = "vision_model." if family == "clip" else ""
    before = {n.removeprefix("wav2vec2.").removeprefix("vision_model."): a for n, a in before.items() if tower in n}
    before = {n: a for n, a in before.items() if not (family == "wav2vec2" and n.startswith("lm_head"))}
    assert after.keys() == before.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        np.testing.assert_array_equal(after[name].view(np.uint8), array.view(np.uint8), err_msg=name)
    assert counts["tensors"] == len(after) - (family in ("hubert", "wav2vec2"))  # SpecAugment's is carried along
    reloaded = getattr(transformers, json.loads((tmp_path / "back" / "config.json").read_text())["architectures"][0])
    _, info = reloaded.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_mistral_without_a_window_is_a_llama(seed, tmp_path):
    save(draw("mistral", seed), tmp_path / "source")
    convert("vicuna", tmp_path / "source", tmp_path / "weights")
    assert verify("vicuna", tmp_path / "source", tmp_path / "weights").good


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrower_on_disk_is_within_its_resolution(dtype, seed, tmp_path):
    save(draw("vicuna", seed), tmp_path / "source")
    convert("vicuna", tmp_path / "source", tmp_path / "weights", dtype)
    report = verify("vicuna", tmp_path / "source", tmp_path / "weights")
    assert report.good and report.tolerance > 1e-4
    assert max(report.outputs.values()) > 1e-5  # something was rounded
    dtypes = {
        name.split("/")[-2 if name[-1].isdigit() else -1]: e["dtype"]
        for name, e in read_index(tmp_path / "weights").items()
    }
    assert dtypes["attention_norm"] == "float32" and dtypes["kernel"] == dtype


def test_tensors_of_the_same_shape_in_each_others_place_are_found(seed, tmp_path):
    """No rule can see the swap; the model's outputs show it."""
    model = draw(
        "vicuna", seed, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, hidden_size=32, head_dim=16
    )
    save(model, tmp_path / "source")
    state = read_all(tmp_path / "source")
    query, output = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qo")
    state[query], state[output] = state[output], state[query]
    swapped = tmp_path / "swapped"
    save(model, swapped)
    replace_weights(swapped, state)
    for file in swapped.glob("*.index.json"):
        file.unlink()
    convert("vicuna", swapped, tmp_path / "weights")
    report = verify("vicuna", tmp_path / "source", tmp_path / "weights")
    assert not report.good
    assert "wrong first in layer 1" in report.lines()


# Settings -------------------------------------------------------------------------------------------------------------


def change_settings(folder, **changes):
    """Change config.json; a setting whose value is ... is removed."""
    settings = json.loads((folder / "config.json").read_text()) | changes
    settings = {name: value for name, value in settings.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.fixture
def llama(seed, tmp_path):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
    save(draw("vicuna", seed, rope_parameters=rope, tie_word_embeddings=False), tmp_path / "source")
    return tmp_path / "source"


def test_old_and_new_spellings_say_the_same(llama):
    config = open_source("vicuna", llama).config
    assert config.rope_theta == 1e6 and config.rope_scaling == RopeScaling("linear", factor=4.0)
    change_settings(
        llama,
        rope_parameters=...,
        rope_theta=1e6,
        rope_scaling={"type": "linear", "factor": 4.0},
        dtype=...,
        torch_dtype="float32",
    )
    assert open_source("vicuna", llama).config == config
    change_settings(llama, rope_parameters={"rope_theta": 1e6})  # as transformers 5 saves an older checkpoint
    assert open_source("vicuna", llama).config == config
    change_settings(llama, rope_theta=1e4)
    with pytest.raises(ConversionError, match="rope_theta is 10000.0, and 1000000.0 in rope_parameters"):
        open_source("vicuna", llama)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 64}, "sliding_window is 64"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "without factor"),
        ({"model_type": "clip"}, "that is family clip"),
        ({"model_type": "qwen2"}, "model_type 'qwen2'"),
        ({"hidden_size": ...}, "hidden_size is not there"),
        ({"tie_word_embeddings": True}, "ties the embeddings, but lm_head.weight is not"),
        ({"num_key_value_heads": 7, "num_attention_heads": 5}, "kv_heads"),
    ],
)
def test_settings_that_our_llama_does_not_have_are_refused(changes, message, llama, tmp_path):
    change_settings(llama, **changes)
    with pytest.raises(ConversionError, match=message):
        convert("vicuna", llama, tmp_path / "weights")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_rotary_tables_of_old_checkpoints_are_known_and_compared(seed, tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    save(draw("vicuna", seed, rope_parameters=rope, head_dim=16), tmp_path / "source")
    state = read_all(tmp_path / "source")
    frequencies = (1e6 ** (-np.arange(0, 16, 2) / 16)).astype(np.float32)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = frequencies
    path = replace_weights(tmp_path / "source", state)
    assert convert("vicuna", path, tmp_path / "weights")["left_aside"] == 1
    change_settings(tmp_path / "source", rope_parameters=...)  # rope_theta is lost
    with pytest.raises(ConversionError, match=r"inv_freq is not what rope_theta 10000.0 gives"):
        convert("vicuna", path, tmp_path / "other")


def test_what_goes_with_the_weights_goes_with_them(llama, tmp_path):
    (llama / "generation_config.json").write_text("{}")
    (llama / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    convert("vicuna", llama, tmp_path / "weights")
    assert (tmp_path / "weights" / "tokenizer_config.json").read_text() == '{"bos_token": "<s>"}'
    metadata = read_metadata(tmp_path / "weights")
    assert metadata["settings"] == ["tokenizer_config.json", "generation_config.json"]
    config = load_llm_config(tmp_path / "weights", compute_dtype="float32", attention="cudnn")
    assert isinstance(config, LlamaConfig) and config.rope_theta == 1e6 and config.attention == "cudnn"
