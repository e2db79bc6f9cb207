"""Damaged checkpoints are detected, set aside and reported, and the one before is used."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from empatheia_jax.checkpoints.manifest import FILE_NAME, checkpoint_folders, find_defect, set_aside_damaged
from empatheia_jax.checkpoints.runs import Checkpoints, Position
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.testing.tiny import leaves, make_model, small_config
from support.damage import damage

DAMAGES = 30


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder of checkpoints at steps 3 and 5, LoRA parameters, and those of the older checkpoint."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    lora = nnx.filter_state(nnx.state(make_model(small_config())), in_groups(("lora",)))
    optimizer = jax.jit(optax.adamw(1e-3).init)(lora)
    checkpoints = Checkpoints(folder)
    for step in (3, 5):
        scaled = jax.tree.map(lambda x, step=step: jnp.asarray(np.asarray(x) + step), lora)
        checkpoints.save(Position(step, 1, step), scaled, optimizer)
    checkpoints.close()
    return folder, lora, {name: value + 3 for name, value in leaves(lora).items()}


def test_thirty_damages_are_thirty_detections(saved, tmp_path, seed, capsys):
    folder, lora, older = saved
    rng = np.random.default_rng([seed, 30])
    for number in range(DAMAGES):
        run = tmp_path / str(number)
        shutil.copytree(folder, run / "checkpoints")
        damaged = damage(run / "checkpoints" / "5", rng)
        set_aside_damaged(run / "checkpoints")
        output = capsys.readouterr().err
        assert "checkpoint 5 is damaged" in output and "goes on from 3" in output and output.count("\n") == 1, (
            damaged,
            output,
        )
        assert [path.name for path in checkpoint_folders(run / "checkpoints")] == ["3"], damaged
        assert (run / "set_aside" / "5-1").is_dir()
        if number % 10 == 0:
            again = Checkpoints(run / "checkpoints")
            assert again.latest() == Position(3, 1, 3)
            loaded = leaves(again.load_params(again.latest(), lora))
            for name, value in older.items():
                np.testing.assert_array_equal(loaded[name], value, err_msg=name)
            again.close()


def test_whole_checkpoints_stay_and_those_of_older_versions_too(saved, tmp_path, capsys):
    folder, _, _ = saved
    for number, steps_without_manifest in enumerate([(), (3,), (3, 5)]):
        run = tmp_path / str(number)
        shutil.copytree(folder, run / "checkpoints")
        for step in steps_without_manifest:
            (run / "checkpoints" / str(step) / FILE_NAME).unlink()
        set_aside_damaged(run / "checkpoints")
        assert [path.name for path in checkpoint_folders(run / "checkpoints")] == ["3", "5"]
        assert capsys.readouterr().err == ""


def test_both_damaged_begin_again_and_nothing_is_deleted(saved, tmp_path, seed, capsys):
    folder, _, _ = saved
    shutil.copytree(folder, tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
    rng = np.random.default_rng([seed, 31])
    for step in ("3", "5"):
        largest = max((tmp_path / "checkpoints" / step).rglob("d/*"), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[int(rng.integers(len(data)))] ^= 16
        largest.write_bytes(data)
    assert "SHA-256" in find_defect(tmp_path / "checkpoints" / "3")
    set_aside_damaged(tmp_path / "checkpoints")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "goes on from 3" in lines[0] and "begins again" in lines[1]
    assert sorted(path.name for path in (tmp_path / "set_aside").iterdir()) == ["3-1", "5-1"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_newest_stay_and_one_of_every_so_many_steps(saved, tmp_path):
    _, lora, _ = saved
    small = nnx.filter_state(lora, lambda path, _: path[-1] == "lora_a" and "q_proj" in path) or lora
    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=2, kept_every=10)
    for step in (4, 9, 14, 17, 21, 24, 26, 29):
        checkpoints.save(Position(step, 1, step), small, {"count": jnp.zeros(1)})
    checkpoints.close()
    assert [int(path.name) for path in checkpoint_folders(tmp_path / "checkpoints")] == [4, 14, 24, 26, 29]
    assert all(not find_defect(path) for path in checkpoint_folders(tmp_path / "checkpoints"))
