"""A disk that takes no more: said in one line, nothing half written stays, and the next checkpoint tries again."""

import resource

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import make_model, small_config

from empatheia_jax.checkpoint import Checkpoints, Position
from empatheia_jax.manifest import defect, numbered
from empatheia_jax.states import CheckpointError
from empatheia_jax.training.step import trains


@pytest.fixture
def limited():
    """Sets the size of which this process may write a file: beyond it the system says "File too large"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def test_a_refused_save_is_said_and_the_next_one_tries_again(tmp_path, limited, capsys):
    lora = nnx.filter_state(nnx.state(make_model(small_config())), trains(("lora",)))
    folder, optimizer = tmp_path / "checkpoints", {"moment": jnp.asarray(np.random.default_rng(0).normal(size=50000))}
    checkpoints = Checkpoints(folder)
    checkpoints.save(Position(3, 1, 3), lora, optimizer)
    checkpoints.wait()
    limited(20000)
    checkpoints.save(Position(5, 1, 5), lora, optimizer)
    checkpoints.wait()
    said = capsys.readouterr().err.splitlines()
    said = [line for line in said if line.startswith("checkpoint")]
    assert len(said) == 1 and "checkpoint 5 could not be written" in said[0] and "file too large" in said[0]
    assert [path.name for path in folder.iterdir()] == ["3"]
    limited(None)
    checkpoints.save(Position(7, 1, 7), lora, optimizer)
    checkpoints.close()
    assert [path.name for path in numbered(folder)] == ["3", "7"]
    assert not any(defect(path) for path in numbered(folder))


def test_a_last_save_that_is_refused_is_an_error(tmp_path, limited):
    folder, lora = tmp_path / "checkpoints", {"moment": jnp.asarray(np.random.default_rng(0).normal(size=50000))}
    state = nnx.filter_state(nnx.state(make_model(small_config())), trains(("lora",)))
    checkpoints = Checkpoints(folder)
    limited(20000)
    checkpoints.save(Position(3, 1, 3), state, lora)
    with pytest.raises(CheckpointError, match="checkpoint 3 could not be written.*free space and --resume"):
        checkpoints.close()
    limited(None)
    assert not list(folder.iterdir())
