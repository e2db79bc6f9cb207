"""A disk that takes no more: said in one line, nothing half written stays, and the next checkpoint tries again."""

import re
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import make_model, small_config
from supervised import Supervised
from trainer import assert_same_run

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


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0, 1), (1,)], ids=["all", "one"])
def test_several_processes_end_and_the_supervisor_goes_on_from_the_checkpoint_before(pair, victims):
    """The disk is full for all, or for one host; what they write together is given up by all, and tried again."""
    trainer, name = pair.trainer, f"full-{len(victims)}"
    pair.run(f"{name}-whole", 1)
    run = Supervised(trainer, name, 2, "--checkpoint-every", "5", "--mesh.fsdp", "2")
    run.wait_for(7)
    children = run.children()
    for victim in victims:
        resource.prlimit(children[victim], resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    said = run.finish()
    refused = re.findall(r"train.py: checkpoint (\d+) could not be written .*file too large; free space", said)
    assert refused and "Traceback" not in said, said[-3000:]
    restarts = re.findall(r"process (\d) ended with exit code 74.* from checkpoint (\d+)", said)
    assert len(restarts) == 1 and int(restarts[0][0]) in victims and int(restarts[0][1]) == int(refused[0]) - 5
    assert "is damaged" not in said and "1 restarts" in said
    folders = numbered(run.folder / "checkpoints")
    assert folders and not any(defect(path) for path in folders)
    assert_same_run(trainer, f"{name}-whole", name)
