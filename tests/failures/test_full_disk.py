"""A full disk: one line reports it, nothing half written stays, and the next checkpoint tries again."""

import re
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.manifest import checkpoint_folders, find_defect
from empatheia_jax.checkpoints.named_arrays import CheckpointError
from empatheia_jax.checkpoints.runs import Checkpoints, Position
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.testing.tiny import make_model, small_config
from support.supervised import Supervised
from support.trainer import assert_same_run


@pytest.fixture
def limited():
    """Return a function that limits the size of files this process may write; None lifts the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


def test_a_refused_save_is_said_and_the_next_one_tries_again(tmp_path, limited, capsys):
    lora = nnx.filter_state(nnx.state(make_model(small_config())), in_groups(("lora",)))
    folder, optimizer = tmp_path / "checkpoints", {"moment": jnp.asarray(np.random.default_rng(0).normal(size=50000))}
    checkpoints = Checkpoints(folder)
    checkpoints.save(Position(3, 1, 3), lora, optimizer)
    checkpoints.wait()
    limited(20000)
    checkpoints.save(Position(5, 1, 5), lora, optimizer)
    checkpoints.wait()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("checkpoint")]
    assert len(lines) == 1 and "checkpoint 5 could not be written" in lines[0] and "file too large" in lines[0]
    assert [path.name for path in folder.iterdir()] == ["3"]
    limited(None)
    checkpoints.save(Position(7, 1, 7), lora, optimizer)
    checkpoints.close()
    assert [path.name for path in checkpoint_folders(folder)] == ["3", "7"]
    assert not any(find_defect(path) for path in checkpoint_folders(folder))


def test_a_last_save_that_is_refused_is_an_error(tmp_path, limited):
    folder, optimizer = tmp_path / "checkpoints", {"moment": jnp.asarray(np.random.default_rng(0).normal(size=50000))}
    lora = nnx.filter_state(nnx.state(make_model(small_config())), in_groups(("lora",)))
    checkpoints = Checkpoints(folder)
    limited(20000)
    checkpoints.save(Position(3, 1, 3), lora, optimizer)
    with pytest.raises(CheckpointError, match="checkpoint 3 could not be written.*free space and --resume"):
        checkpoints.close()
    limited(None)
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0, 1), (1,)], ids=["all", "one"])
def test_several_processes_end_and_the_supervisor_goes_on_from_the_checkpoint_before(pair, victims):
    """The disk is full for all hosts, or for one; all give up the save, which they write together, and try again."""
    trainer, name = pair.trainer, f"full-{len(victims)}"
    pair.run(f"{name}-whole", 1)
    run = Supervised(trainer, name, 2, "--checkpoint-every", "5", "--mesh.fsdp", "2")
    run.wait_for(7)
    children = run.children()
    for victim in victims:
        resource.prlimit(children[victim], resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    output = run.finish()
    refused = re.findall(r"train.py: checkpoint (\d+) could not be written .*file too large; free space", output)
    assert refused and "Traceback" not in output, output[-3000:]
    restarts = re.findall(r"process (\d) ended with exit code 74.* from checkpoint (\d+)", output)
    assert len(restarts) == 1 and int(restarts[0][0]) in victims and int(restarts[0][1]) == int(refused[0]) - 5
    assert "is damaged" not in output and "1 restarts" in output
    folders = checkpoint_folders(run.folder / "checkpoints")
    assert folders and not any(find_defect(path) for path in folders)
    assert_same_run(trainer, f"{name}-whole", name)
