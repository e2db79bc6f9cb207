"""Stage 2 on cached states: its losses are those with the LLM in the step, and stale states are never read."""

import json
import shutil

import numpy as np
import pytest

from empatheia_jax.training import state_cache
from support.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Train stages 0 and 1 once, and stage 2 from there with and without the cache."""
    trainer = Trainer(tmp_path_factory.mktemp("cache"), config="all_stages")
    trainer.run("cached", "--stages", "0,1")
    shutil.copytree(trainer.folder / "cached", trainer.folder / "computed")
    settings = trainer.folder / "computed" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"cache_states": False}))
    trainer.run("cached", "--stages", "2", "--resume")
    trainer.run("computed", "--stages", "2", "--resume", "--cache-states", "False")
    return trainer


def test_the_same_examples_and_losses(trainer):
    cached, computed = (
        [record for record in trainer.read(name, "metrics.jsonl") if record["stage"] == 2]
        for name in ("cached", "computed")
    )
    assert trainer.read("cached", "examples.jsonl") == trainer.read("computed", "examples.jsonl")
    assert len(cached) == len(computed) > 4
    for record, expected in zip(cached, computed, strict=True):
        assert record.keys() == expected.keys()
        for name in record.keys() - {"tokens_per_second"}:
            np.testing.assert_allclose(record[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (trainer.folder / "cached" / state_cache.FOLDER / "index.json").exists()
    assert not (trainer.folder / "computed" / state_cache.FOLDER).exists()


def test_states_of_another_adapter_are_made_anew(trainer):
    """Stage 1 is trained again with another seed: the states of the first are not used."""
    folder = trainer.folder / "other"
    shutil.copytree(trainer.folder / "cached", folder)
    old = json.loads((folder / state_cache.FOLDER / "manifest.json").read_text())
    shutil.rmtree(folder / "checkpoints")
    for name in ("metrics.jsonl", "examples.jsonl"):
        (folder / name).write_text("")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"seed": 5}))
    trainer.run("other", "--resume", "--stages", "1,2", "--seed", "5")
    new = json.loads((folder / state_cache.FOLDER / "manifest.json").read_text())
    assert new["complete"] and new["source_hash"] == old["source_hash"]
    changed = {name for name, value in new["settings"].items() if old["settings"][name] != value}
    assert changed == {"adapted"}
