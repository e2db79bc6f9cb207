"""Fields that have moved: old runs are read and resumed, old flags work with a note."""

import dataclasses
import json

import pytest

from empatheia_jax.checkpoints.workdir import check_workdir, save_config, saved_config
from empatheia_jax.config import Config, ConfigError, LossConfig
from empatheia_jax.config.load import MOVED, config_from_json, config_to_json, load_config
from empatheia_jax.testing.tiny import small_config

LOSS = LossConfig(alpha=0.31, beta=0.42, label_weight=0.53, kl_weight=0.064)


def old_json(config: Config) -> dict:
    """Return the config as a version before the move wrote it."""
    value = config_to_json(config)
    loss = value.pop("loss")
    for name in ("alpha", "beta", "label_weight"):
        value["optim"][name] = loss[name]
    value["latents"]["kl_weight"] = loss["kl_weight"]
    return value


def test_a_config_of_an_older_version_is_read_with_its_values():
    config = dataclasses.replace(small_config(), loss=LOSS)
    value = json.loads(json.dumps(old_json(config)))
    assert config_from_json(value) == config
    assert value == old_json(config)  # what was read is left as it was
    with pytest.raises(ConfigError, match="colour"):
        config_from_json(value | {"optim": value["optim"] | {"colour": 3}})


def test_a_run_of_an_older_version_is_resumed_and_another_weight_is_noticed(tmp_path):
    config = dataclasses.replace(small_config(), loss=LOSS)
    save_config(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(old_json(config)))
    assert saved_config(tmp_path) == config
    check_workdir(tmp_path, config, resume=True, trains_base=True)
    changed = dataclasses.replace(config, loss=dataclasses.replace(LOSS, beta=0.7))
    with pytest.raises(ConfigError, match=r"another config \(loss\)"):
        check_workdir(tmp_path, changed, resume=True, trains_base=True)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from empatheia_jax.config import Config\ndef get_config():\n    return Config(name='mine')\n")
    return str(path)


@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("separator", [" ", "="])
@pytest.mark.parametrize("underscore", ["_", "-"])
def test_a_flag_with_the_old_name_works_with_a_note(path, capsys, old, separator, underscore):
    new = MOVED[old]
    config = load_config(path, f"--{old.replace('_', underscore)}{separator}0.625 --optim.b1 0.8".split())
    assert config.optim.b1 == 0.8
    assert config.loss == dataclasses.replace(LossConfig(), **{new.split(".")[1]: 0.625})
    note = capsys.readouterr().err
    assert old.replace("_", underscore) in note and f"--{new.replace('_', '-')} now" in note and note.count("\n") == 1


@pytest.mark.parametrize("separator", [" ", "="])
def test_a_field_that_became_two_is_read_as_both(path, capsys, separator):
    encoders = load_config(path, f"--encoders.kind{separator}hubert_clip --optim.b1 0.8".split()).encoders
    assert (encoders.audio, encoders.video) == ("hubert", "clip")
    assert "--encoders.audio and --encoders.video now" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="encoders.kind 'ears' is unknown: choose from classical, hubert_clip"):
        load_config(path, ["--encoders.kind", "ears"])
    old = config_to_json(Config(name="mine", encoders=encoders))
    del old["encoders"]["audio"], old["encoders"]["video"]
    assert config_from_json(old | {"encoders": old["encoders"] | {"kind": "hubert_clip"}}).encoders == encoders
    classical = config_from_json(old | {"encoders": old["encoders"] | {"kind": "classical"}}).encoders
    assert (classical.audio, classical.video) == ("classical", "classical")


def test_a_value_that_is_none_of_the_choices_is_refused_wherever_it_comes_from():
    value = config_to_json(Config(name="mine"))
    for part, name in (("encoders", "audio"), ("prompt", "instruction"), ("generators", "speech")):
        with pytest.raises(ConfigError, match=f"{part}.{name} 'ears' is unknown: choose from "):
            config_from_json(value | {part: value[part] | {name: "ears"}})


def test_other_flags_come_without_a_note_and_a_value_is_no_flag(path, capsys):
    config = load_config(path, ["--loss.alpha", "0.5", "--data.path", "optim.alpha"])
    assert (config.loss.alpha, config.data.path) == (0.5, "optim.alpha")
    assert capsys.readouterr().err == ""
