"""A run that has moved, or whose feature store is elsewhere, is loaded from its own files."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.model_inputs import FILE_NAME, write_model_inputs
from empatheia_jax.checkpoints.runs import Checkpoints, Position, save_base
from empatheia_jax.checkpoints.workdir import check_workdir, open_store, save_config, saved_config
from empatheia_jax.config import Config, ConfigError, DataConfig, MeshConfig, MixConfig
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.evaluation.evaluate import evaluate
from empatheia_jax.inference.load import load_run
from empatheia_jax.inference.request import Request
from empatheia_jax.inference.respond import Responder
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.planning.local import config_widths
from empatheia_jax.testing.corpus import write_text_corpus
from empatheia_jax.testing.tiny import leaves, make_tokenizer, replace_fields, small_config
from support.trainer import write_features


def in_data(config: Config, **fields) -> Config:
    return replace_fields(config, "data", **fields)


@pytest.fixture
def trained_run(tmp_path, monkeypatch):
    """(config, parameters) of the run `runs/a`, trained from the present folder, which holds its feature store."""
    folder = tmp_path / "place" / "runs" / "a"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "place")
    corpus = write_text_corpus(folder / "corpus", 4)
    write_features(corpus)
    config = in_data(small_config(), path="runs/a/corpus", features="runs/a/corpus/features")
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    _, abstract = abstract_model(config, config_widths(config), mesh)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda like: jnp.asarray(rng.normal(size=like.shape).astype(np.float32)), abstract)
    save_config(folder, config)
    make_tokenizer().save(folder / "tokenizer")
    save_base(folder / "base", nnx.filter_state(state, in_groups(("base",))))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(Position(9, 5, 0), nnx.filter_state(state, in_groups(ADAPTED)), {"count": jnp.zeros(1)})
    checkpoints.close()
    write_model_inputs(folder, open_store(folder, saved_config(folder)).settings)
    return config, state


def assert_loads(folder, state):
    loaded, expected = leaves(nnx.state(load_run(folder).model)), leaves(state)
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def test_a_run_moves_with_what_lies_in_it_and_answers_without_its_feature_store(tmp_path, trained_run, monkeypatch):
    config, state = trained_run
    moved = tmp_path / "elsewhere" / "b"
    moved.parent.mkdir()
    shutil.move(tmp_path / "place" / "runs" / "a", moved)
    monkeypatch.chdir(tmp_path)
    saved = saved_config(moved)
    assert saved.data.path == str(moved / "corpus")
    assert open_store(moved, saved).directory == moved / "corpus" / "features"
    # It is resumed with the same config, named from here.
    there = in_data(config, path="elsewhere/b/corpus", features=str(moved / "corpus" / "features"))
    check_workdir(moved, there, resume=True, trains_base=True)
    shutil.rmtree(moved / "corpus")
    assert_loads(moved, state)
    with pytest.raises(ConfigError, match=r"data\.path corpus .*neither in .*elsewhere/b nor in "):
        evaluate(moved, "test", tmp_path / "report")
    # Other encoders than those that it was trained with are still refused, without the store.
    other = dataclasses.replace(config.encoders, audio_segments=7)
    save_config(moved, dataclasses.replace(config, encoders=other))
    with pytest.raises(StoreError, match=r"trained with other encoders .*encoders\.audio.*7"):
        load_run(moved)
    (moved / FILE_NAME).unlink()  # an older run needs its store
    with pytest.raises(StoreError, match="no feature store here"):
        load_run(moved)


def test_a_path_is_looked_for_in_the_run_then_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    for folder in ("run/in_both", "in_both", "here", "run/there", "run/mixed"):
        (tmp_path / folder).mkdir(parents=True)
    data = DataConfig(path="in_both", features="here", mix=(MixConfig("m", "mixed", "gone"),))
    config = Config(base="there", data=data)
    config = dataclasses.replace(config, encoders=dataclasses.replace(config.encoders, hubert_weights="random"))
    save_config(run, config)
    saved = saved_config(run)
    assert (saved.base, saved.data.path, saved.data.features) == (str(run / "there"), str(run / "in_both"), "here")
    assert (saved.data.mix[0].path, saved.data.mix[0].features) == (str(run / "mixed"), "gone")
    assert saved.encoders.hubert_weights == "random"
    # What lies above the run's folder is no part of it, and "." is where the command was typed.
    for path in (".", "..", "../there", "./here", str(tmp_path / "here"), str(run)):
        save_config(run, in_data(Config(), features=path))
        assert saved_config(run).data.features == path


def test_what_is_in_neither_place_is_named_with_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small_config(base="bases/7b")
    encoders = dataclasses.replace(config.encoders, audio="hubert", hubert_weights="hubert_large")
    generators = dataclasses.replace(config.generators, speech="styletts2", speech_weights="/gone/voice")
    save_config(tmp_path / "run", dataclasses.replace(config, encoders=encoders, generators=generators))
    both = re.escape(f"neither in the run's folder {tmp_path / 'run'} nor in {tmp_path}")
    with pytest.raises(ConfigError, match=f"base bases/7b .*{both}"):
        load_run(tmp_path / "run")
    responder = Responder(Request(tmp_path / "run", tmp_path / "answer.mp4", text="Hello."))
    with pytest.raises(ConfigError, match=rf"encoders\.hubert_weights hubert_large .*{both}"):
        _ = responder.encoders
    with pytest.raises(
        ConfigError, match=r"generators\.speech_weights /gone/voice of the run .*/run is not there: put"
    ):
        _ = responder.generators


def test_training_writes_what_loading_needs(tmp_path):
    from empatheia_jax.training.data import load_data

    corpus = write_text_corpus(tmp_path / "corpus", 4)
    write_features(corpus)
    config = in_data(small_config(), path=str(corpus), features=str(corpus / "features"))
    data = load_data(tmp_path / "run", config)
    saved = json.loads((tmp_path / "run" / FILE_NAME).read_text())
    assert saved["settings"] == data.store.settings and data.widths == config_widths(config)
