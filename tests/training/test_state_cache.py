"""Stage 2 on cached states: the losses are those of stage 2 that runs the LLM, and stale states are never read."""

import json
import shutil

import numpy as np
import pytest
from trainer import ALL_STAGES, Trainer

from empatheia_jax.training import state_cache

pytestmark = pytest.mark.slow


def run(trainer: Trainer, workdir: str, *flags: str) -> str:
    code, out, err = trainer.finish(trainer.start(workdir, *flags))
    assert code == 0, err[-2000:]
    return out


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Stages 0 and 1 once; stage 2 from there with and without the cache."""
    made = Trainer(tmp_path_factory.mktemp("cache"), ALL_STAGES)
    run(made, "cached", "--stages", "0,1")
    shutil.copytree(made.folder / "cached", made.folder / "computed")
    settings = made.folder / "computed" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"cache_states": False}))
    run(made, "cached", "--stages", "2", "--resume")
    run(made, "computed", "--stages", "2", "--resume", "--cache-states", "False")
    return made


def test_the_same_examples_and_losses(trainer):
    cached, computed = (
        [record for record in trainer.read(name, "metrics.jsonl") if record["stage"] == 2]
        for name in ("cached", "computed")
    )
    assert trainer.read("cached", "examples.jsonl") == trainer.read("computed", "examples.jsonl")
    assert len(cached) == len(computed) > 4
    for ours, theirs in zip(cached, computed, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"tokens_per_second"}:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (trainer.folder / "cached" / state_cache.FOLDER / "index.json").exists()
    assert not (trainer.folder / "computed" / state_cache.FOLDER).exists()


def test_states_of_another_adapter_are_made_anew(trainer):
    """The run is taken back to before stage 1, which is trained with another seed: its states are not the old ones."""
    folder = trainer.folder / "other"
    shutil.copytree(trainer.folder / "cached", folder)
    old = json.loads((folder / state_cache.FOLDER / "manifest.json").read_text())
    shutil.rmtree(folder / "checkpoints")
    for name in ("metrics.jsonl", "examples.jsonl"):
        (folder / name).write_text("")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"seed": 5}))
    run(trainer, "other", "--resume", "--stages", "1,2", "--seed", "5")
    new = json.loads((folder / state_cache.FOLDER / "manifest.json").read_text())
    assert new["complete"] and new["source_hash"] == old["source_hash"]
    changed = {name for name, value in new["settings"].items() if old["settings"][name] != value}
    assert changed == {"adapted"}
