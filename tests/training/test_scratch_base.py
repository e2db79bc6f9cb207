"""A base that stage 0 trains and that is kept in bfloat16: a run that is resumed goes on with the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.restore import read_base, read_checkpoint
from empatheia_jax.checkpoints.runs import Checkpoints, Position, save_base
from empatheia_jax.config import MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model, as_stored, as_trained
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.testing.tiny import WIDTHS, leaves, replace_fields, small_config
from support.trainer import Trainer

CONFIG = replace_fields(small_config(), "llm", param_dtype="bfloat16")
BASE = in_groups(("base",))


@pytest.fixture(scope="module")
def abstract():
    return abstract_model(CONFIG, WIDTHS, sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))[1]


@pytest.fixture(scope="module")
def trained(abstract):
    """All parameters in the middle of stage 0: the base has float32 values that bfloat16 has not."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda like: jnp.asarray(rng.normal(size=like.shape).astype(np.float32)), as_trained(abstract))


def assert_same_bits(actual, expected):
    actual, expected = leaves(actual), leaves(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_a_checkpoint_within_stage_0_comes_back_unrounded(tmp_path, trained, abstract):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position := Position(3, 0, 3), trained, {"count": jnp.zeros(1)})
    checkpoints.wait()
    assert_same_bits(read_checkpoint(checkpoints, position, abstract), trained)
    checkpoints.close()


def test_the_base_after_stage_0_is_the_one_that_a_resumed_run_reads(tmp_path, trained, abstract):
    stored = as_stored(trained, abstract)
    embedding = np.asarray(nnx.filter_state(stored, BASE)["llm"]["embedding"][...])
    assert embedding.dtype == jnp.bfloat16
    save_base(tmp_path / "base", nnx.filter_state(stored, BASE))
    assert_same_bits(nnx.filter_state(read_base(tmp_path / "base", abstract), BASE), nnx.filter_state(stored, BASE))
    # Older runs have a base in float32, which is rounded to the same bits.
    save_base(tmp_path / "older", nnx.filter_state(trained, BASE))
    assert_same_bits(nnx.filter_state(read_base(tmp_path / "older", abstract), BASE), nnx.filter_state(stored, BASE))


@pytest.mark.slow  # three runs
def test_a_run_that_is_resumed_after_stage_0_is_the_run_that_was_not_stopped(tmp_path):
    trainer = Trainer(tmp_path, "--llm.param-dtype", "bfloat16", "--stages.0.epochs", "3")
    trainer.run("uninterrupted")
    trainer.run("stopped", "--stages", "0")
    trainer.run("stopped", "--resume")
    trainer.assert_equal("uninterrupted", "stopped")
    assert trainer.weights("stopped")["base/llm/embedding"].dtype == jnp.bfloat16
