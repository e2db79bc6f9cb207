"""Settings of PEFT that change what an adapter computes are refused by name, known or not."""

import dataclasses
import json
import re

import numpy as np
import pytest
import random_llama
from safetensors.numpy import save_file

from converters.__main__ import main
from converters.convert import convert
from converters.peft import export_settings, import_adapter, parse_config
from converters.peft_settings import DEFAULTS, unknown_settings
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.weights import read_metadata
from empatheia_jax.config import LoraConfig

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}

REFUSED = {
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "eva", "lora_ga", "mica", "new", 0.5],
    "use_dora": [True],
    "rank_pattern": [{"q_proj": 2}],
    "alpha_pattern": [{"q_proj": 2}],
    "layers_to_transform": [[0, 1], 1, 0],
    "layers_pattern": ["layers"],
    "layer_replication": [[[0, 2], [1, 3]]],
    "bias": ["all", "lora_only"],
    "modules_to_save": [["lm_head"]],
    "fan_in_fan_out": [True],
    "lora_bias": [True],
    "trainable_token_indices": [[1, 2], {"embed_tokens": [3]}],
    "target_parameters": [["mlp.experts"]],
    "exclude_modules": [["v_proj"], "v_proj"],
    "loftq_config": [{"loftq_bits": 4}],
    "corda_config": [{"corda_method": "kpm"}],
    "eva_config": [{"rho": 2.0}],
    "arrow_config": [{"top_k": 3}],
    "megatron_config": [{"hidden_size": 4}],
    "megatron_core": ["another.core"],
    "alora_invocation_tokens": [[1, 2]],
    "use_qalora": [True],
    "use_bdlora": [{"nblocks": 2}],
    "velora_config": [{"rank": 1}],
    "kasa_config": [{"beta": 1.0}],
    "monteclora_config": [{"samples": 2}],
    "lora_ga_config": [{"stable": 1}],
    "ensure_weight_tying": [True],
    "task_type": ["SEQ_CLS", "SEQ_2_SEQ_LM"],
    "use_rslora": ["yes"],
    "what_peft_adds_next": [True, 3, "fast", {"a": 1}, [0]],
}
CASES = [(name, value) for name, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_what_is_not_understood_is_refused_by_name(name, value):
    with pytest.raises(ConversionError, match=rf"{name} is {re.escape(repr(value))}"):
        parse_config(PLAIN | {name: value})


def test_all_that_is_refused_is_in_one_error():
    with pytest.raises(ConversionError) as raised:
        parse_config(PLAIN | {"init_lora_weights": "pissa", "use_dora": True, "brand_new": 1})
    text = str(raised.value)
    assert all(name in text for name in ("init_lora_weights", "use_dora", "brand_new")) and "\n" not in text
    assert "path_initial_model_for_weight_conversion" in text  # what to do


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "orthogonal"},
        {
            "lora_dropout": 0.1,
            "inference_mode": True,
            "revision": "main",
            "peft_version": "99.0",
            "task_type": "CAUSAL_LM",
        },
        {"base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "auto_mapping": {"parent_library": "transformers"}},
        {"modules_to_save": [], "rank_pattern": None, "layers_to_transform": None, "loftq_config": None},
        {"enable_lora": None, "merge_weights": False},  # of PEFT 0.2
        {"what_peft_adds_next": None, "and_then": False, "and_more": {}},
    ],
)
def test_what_leaves_the_meaning_as_it_is_is_taken(settings):
    assert parse_config(PLAIN | settings) == dataclasses.replace(
        LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj")), dropout=settings.get("lora_dropout", 0.0)
    )


def test_rslora_is_applied():
    assert parse_config(PLAIN | {"use_rslora": True}).alpha == 8 * 4**0.5


def test_what_we_write_is_what_we_read():
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.1, targets=("q_proj", "o_proj"))
    assert unknown_settings(export_settings(lora, "base")) == [] and parse_config(export_settings(lora, "base")) == lora


def test_the_table_is_that_of_the_installed_peft():
    peft = pytest.importorskip("peft")
    fields = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
    assert fields.keys() == DEFAULTS.keys()
    for name, ours in DEFAULTS.items():
        made = fields[name].default is dataclasses.MISSING
        theirs = fields[name].default_factory() if made else fields[name].default
        assert (dataclasses.asdict(theirs) if dataclasses.is_dataclass(theirs) else theirs) == ours, name


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    random_llama.write_checkpoint(folder / "source", "tiny")
    convert("vicuna", folder / "source", folder / "weights")
    return folder / "weights"


def write_adapter(folder, change=lambda name, array: array, **settings):
    """Write a PEFT directory for `base`, its tensors changed by `change`."""
    width, outputs, rng = 64, {"q_proj": 64, "v_proj": 32}, np.random.default_rng(0)
    tensors = {}
    for layer in range(3):
        for name, size in outputs.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(4, width)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(size=(size, 4)).astype(np.float32)
    folder.mkdir()
    save_file({name: change(name, array) for name, array in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | settings))
    return folder


def run(base, adapter, output):
    return main(["peft", "--input", str(adapter), "--base", str(base), "--output", str(output)])


def test_the_command_refuses_in_one_line_and_writes_nothing(base, tmp_path, capfd):
    adapter = write_adapter(tmp_path / "adapter", init_lora_weights="pissa_niter_16", use_dora=True)
    assert run(base, adapter, tmp_path / "out") == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "init_lora_weights is 'pissa_niter_16'" in err and "use_dora is True" in err
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}
    assert run(base, write_adapter(tmp_path / "plain"), tmp_path / "out") == 0
    assert read_metadata(tmp_path / "out")["architecture"]["alpha"] == 8.0
    assert "warning" not in capfd.readouterr().err


def test_an_untrained_adapter_is_a_warning_and_one_that_cannot_train_an_error(base, tmp_path, capfd):
    untrained = write_adapter(tmp_path / "untrained", lambda name, array: 0 * array if "lora_B" in name else array)
    assert run(base, untrained, tmp_path / "out") == 0
    err = capfd.readouterr().err
    assert err.count("warning: ") == 1 and "LoRA B are all zero" in err
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    broken = write_adapter(tmp_path / "broken", lambda other, array: 0 * array if other == name else array)
    with pytest.raises(ConversionError, match=f"all zero, which no trained network is: {name}:"):
        import_adapter(broken, base, tmp_path / "out2")
