"""What a run keeps on disk: checkpoints, metrics, config; and what it refuses."""

import dataclasses
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from empatheia_jax.checkpoints.named_arrays import CheckpointError
from empatheia_jax.checkpoints.runs import Checkpoints, Position, identify_base, load_base, save_base
from empatheia_jax.checkpoints.workdir import check_workdir, save_config, saved_config
from empatheia_jax.config import Config, ConfigError, LlamaConfig, RopeScaling
from empatheia_jax.config.load import config_from_json, config_to_json, load_config
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.testing.tiny import leaves, make_model, replace_fields, small_config
from empatheia_jax.training.metrics import Metrics, check_finite, cut_back
from empatheia_jax.training.stages import choose_stages, replace_stage, resolve_stages
from support.programs import run_program

CONFIG = small_config()


@pytest.fixture(scope="module")
def state():
    return nnx.state(make_model(CONFIG))


def zeroed(state):
    return jax.tree.map(lambda x: jnp.asarray(np.zeros_like(x)), state)  # in numpy, so that nothing is compiled


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_come_back_bit_for_bit_and_the_newest_two_stay(tmp_path, state):
    adapted = nnx.filter_state(state, in_groups(ADAPTED))
    tx = optax.adamw(1e-3)
    optimizer = jax.tree.map(lambda x: jnp.asarray(np.asarray(x) + 3), jax.jit(tx.init)(adapted))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    for step in (3, 5, 9):
        scaled = jax.tree.map(lambda x, step=step: jnp.asarray(np.asarray(x) * step), adapted)
        checkpoints.save(Position(step, 2, step - 1), scaled, optimizer)
    checkpoints.close()
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert len(kept) == 2 and any("9" in name for name in kept)
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest() == Position(9, 2, 8)
    loaded = leaves(again.load_params(again.latest(), zeroed(adapted)))
    for name, value in leaves(adapted).items():
        np.testing.assert_array_equal(loaded[name], value * 9, err_msg=name)
    restored = again.load_optimizer(again.latest(), jax.tree.map(lambda x: jnp.asarray(np.zeros_like(x)), optimizer))
    assert jax.tree.structure(restored) == jax.tree.structure(optimizer)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(optimizer), strict=True):
        np.testing.assert_array_equal(a, b)
    # Another config is refused before a byte is read, and named.
    other = nnx.state(make_model(replace_fields(CONFIG, "latents", mlp_width=48)))
    with pytest.raises(CheckpointError, match="another config.*of another shape.*synchronizer"):
        again.load_params(again.latest(), nnx.filter_state(other, in_groups(ADAPTED)))
    fewer = nnx.filter_state(state, in_groups(("lora",)))
    with pytest.raises(CheckpointError, match="unknown.*audio_projector"):
        again.load_params(again.latest(), fewer)
    again.close()


def test_a_checkpoint_goes_on_with_its_own_base_only(tmp_path, state):
    base = tmp_path / "base"
    save_base(base, nnx.filter_state(state, in_groups(("base",))))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.base = identify_base(base)
    lora = nnx.filter_state(state, in_groups(("lora",)))
    checkpoints.save(Position(4, 1, 4), lora, {"count": jnp.zeros(1)})
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    shutil.copytree(base, tmp_path / "moved")
    again.check_base(again.latest(), identify_base(tmp_path / "moved"))  # the same files elsewhere
    largest = max((tmp_path / "moved").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(CheckpointError, match="moved is not the base of"):
        again.check_base(again.latest(), identify_base(tmp_path / "moved"))
    shutil.copy(largest, base / largest.relative_to(tmp_path / "moved"))  # the run's own base, damaged in its place
    with pytest.raises(CheckpointError, match="base has changed since it was written, or is damaged"):
        again.check_base(again.latest(), identify_base(base))
    again.close()


def test_the_base_comes_back_and_a_missing_or_other_base_is_an_error(tmp_path, state):
    base = nnx.filter_state(state, in_groups(("base",)))
    with pytest.raises(CheckpointError, match="no base model here"):
        load_base(tmp_path / "base", base)
    save_base(tmp_path / "base", base)
    loaded = leaves(load_base(tmp_path / "base", zeroed(base)))
    for name, value in leaves(base).items():
        np.testing.assert_array_equal(loaded[name], value)
    wider = nnx.filter_state(nnx.state(make_model(replace_fields(CONFIG, "llm", mlp_width=64))), in_groups(("base",)))
    with pytest.raises(CheckpointError, match="another config"):
        load_base(tmp_path / "base", wider)


# Metrics --------------------------------------------------------------------------------------------------------------


def test_cut_back_drops_later_steps_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 7}) for step in (1, 2, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 5, "lo')
    cut_back(path, 3)
    assert path.read_text() == "\n".join(lines[:4]) + "\n"
    path.write_text("\n".join(lines[:2]) + '\n{"step": 2, "loss": 0.2')
    cut_back(path, 9)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    assert list(tmp_path.iterdir()) == [path]


def test_resumed_metrics_go_on_where_the_checkpoint_stands(tmp_path):
    first = Metrics(tmp_path, None)
    for step in range(1, 6):
        first.log_examples(step, 0, [f"e{step}"])
        first.log(step, 0, {"loss": 1.0 / step})
    first.close()
    second = Metrics(tmp_path, 3)
    second.log_examples(4, 0, ["e4"])
    second.log(4, 0, {"loss": 0.25})
    second.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["stage"], r["loss"]) for r in records] == [(s, 0, 1.0 / s) for s in (1, 2, 3, 4)]
    learned = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert [r["examples"] for r in learned] == [["e1"], ["e2"], ["e3"], ["e4"]]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(name):
    values = {"loss": np.float32(1.0), "grad_norm": np.float32(2.0)}
    assert check_finite(values, 7) == {"loss": 1.0, "grad_norm": 2.0}
    with pytest.raises(FloatingPointError, match="step 7.* nan"):
        check_finite(values | {name: np.float32("nan")}, 7)


# Configs --------------------------------------------------------------------------------------------------------------


def test_a_config_survives_json():
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    config = replace_fields(
        replace_fields(small_config(modalities=("audio",)), "llm", rope_scaling=scaling), "lora", targets=("q_proj",)
    )
    config = replace_stage(config, 3, weight_decay=0.25)
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
    assert config_from_json(json.loads(json.dumps(config_to_json(Config())))) == Config()


def test_an_unknown_field_or_an_impossible_value_is_named():
    value = config_to_json(Config())
    value["llm"]["colour"] = 3
    with pytest.raises(ConfigError, match="run/config.json.*colour"):
        config_from_json(value, "run/config.json")
    with pytest.raises(ConfigError, match="heads 3"):
        LlamaConfig(heads=3, kv_heads=2)
    with pytest.raises(ConfigError, match="smell"):
        Config(modalities=("smell",))


def test_overrides_from_the_command_line_reach_every_part(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from empatheia_jax.config import Config\ndef get_config():\n    return Config(name='mine')\n")
    arguments = "--optim.b1 0.8 --data.path there --stages.3.epochs 2.5 --modalities audio --lora.targets q_proj v_proj"
    config = load_config(str(path), arguments.split())
    expected = replace_fields(replace_fields(Config(name="mine"), "optim", b1=0.8), "data", path="there")
    expected = replace_fields(expected, "lora", targets=("q_proj", "v_proj"))
    assert config == dataclasses.replace(replace_stage(expected, 3, epochs=2.5), modalities=("audio",))
    assert load_config(str(path)) == Config(name="mine")
    with pytest.raises(ConfigError, match="no such config"):
        load_config(str(tmp_path / "absent.py"))
    path.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_config"):
        load_config(str(path))


def test_a_workdir_is_used_once_or_resumed_with_the_same_config(tmp_path):
    with pytest.raises(ConfigError, match="nothing to resume"):
        check_workdir(tmp_path, CONFIG, resume=True, trains_base=True)
    with pytest.raises(ConfigError, match="not a run"):
        saved_config(tmp_path)
    check_workdir(tmp_path, CONFIG, resume=False, trains_base=True)
    save_config(tmp_path, CONFIG)
    assert saved_config(tmp_path) == CONFIG
    with pytest.raises(ConfigError, match="holds a run already"):
        check_workdir(tmp_path, CONFIG, resume=False, trains_base=True)
    check_workdir(tmp_path, CONFIG, resume=True, trains_base=True)
    with pytest.raises(ConfigError, match=r"another config \(optim\)"):
        check_workdir(tmp_path, replace_fields(CONFIG, "optim", b1=0.1), resume=True, trains_base=True)


def test_later_stages_of_a_scratch_base_need_a_trained_base(tmp_path):
    with pytest.raises(ConfigError, match="begin --stages with 0"):
        check_workdir(tmp_path, CONFIG, resume=False, trains_base=False)
    (tmp_path / "base").mkdir()
    check_workdir(tmp_path, CONFIG, resume=False, trains_base=False)


def test_training_is_free_of_torch(tmp_path):
    """Also where torch is installed, and after the TensorBoard writer has been at work."""
    run_program("log_metrics", tmp_path)
    assert any((tmp_path / "events").iterdir())


# Quantised bases ------------------------------------------------------------------------------------------------------


def test_stage_0_trains_no_quantised_base_and_quantising_needs_qwix(tmp_path, monkeypatch):
    pytest.importorskip("qwix")
    quantized = replace_fields(CONFIG, "llm", quantization="nf4", quantization_tile=16)
    with pytest.raises(ConfigError, match="stage 0 trains the base.*copy its DIR/base.*--stages 1,2,3,4"):
        check_workdir(tmp_path / "run", quantized, resume=False, trains_base=True)
    (tmp_path / "run" / "base").mkdir(parents=True)
    check_workdir(tmp_path / "run", quantized, resume=False, trains_base=False)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ConfigError, match="qwix"):
        check_workdir(tmp_path / "run", quantized, resume=False, trains_base=False)


# Stages ---------------------------------------------------------------------------------------------------------------


def test_a_stage_has_the_settings_and_shapes_that_hold_in_it():
    config = replace_stage(CONFIG, 3, rows=8, epochs=2.5)
    stages = resolve_stages(config)
    assert [stage.number for stage in stages] == list(range(5))
    assert stages[3].settings.epochs == 2.5 and stages[3].data == dataclasses.replace(config.data, rows=8)
    assert all(stage.data == config.data for stage in stages if stage.number != 3)
    assert [stage.backprops_through_llm for stage in stages] == [True, True, False, True, True]
    assert [stage.trains_base for stage in stages] == [True, False, False, False, False]


def test_stages_are_chosen_by_what_there_is_to_train():
    def numbers(config, *wanted):
        return [stage.number for stage in choose_stages(config, *wanted)]

    assert numbers(CONFIG) == [0, 1, 2, 3, 4] and numbers(CONFIG, [3, 1]) == [3, 1]
    assert numbers(dataclasses.replace(CONFIG, base="converted")) == [1, 2, 3, 4]
    assert numbers(dataclasses.replace(CONFIG, modalities=())) == [0, 1]
    with pytest.raises(ConfigError, match="there is no stage 7: choose from 0 to 4"):
        choose_stages(CONFIG, [1, 7])
    with pytest.raises(ConfigError, match=r"has no stage 0: choose from \[1, 2, 3, 4\]"):
        choose_stages(dataclasses.replace(CONFIG, base="converted"), [0])
