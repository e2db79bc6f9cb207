"""Two thousand dialogues generated, extracted and trained on, by two processes of which one is killed each time.

`make soak`; about 40 minutes on two cores. EMPATHEIA_LOAD_DIALOGUES sets another number of dialogues.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.features.store import FeatureStore
from support.pair import Pair
from support.programs import ROOT
from support.trainer import Trainer

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.soak

DIALOGUES = int(os.environ.get("EMPATHEIA_LOAD_DIALOGUES", "2000"))
# One thread a process: matrix products round the same whatever the number of workers.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
EPOCHS = 2  # as in configs/thousands.py


def start_extraction(trainer: Trainer, features: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "empatheia_jax", "extract", str(trainer.config), "--workdir", str(trainer.folder)]
    return subprocess.Popen(
        [*command, *trainer.flags, "--data.features", str(features), *flags],
        env=ENVIRONMENT,
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=7200)
    assert process.returncode == 0, err[-3000:]
    return out


def kill_when(process: subprocess.Popen, is_reached, seconds: float = 600) -> None:
    """Send SIGKILL once `is_reached()`."""
    deadline = time.monotonic() + seconds
    while not is_reached():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    sample = [sys.executable, "-m", "empatheia_jax", "sample", "--dialogues", str(DIALOGUES), "--output"]
    start = time.monotonic()
    subprocess.run([*sample, str(folder / "corpus")], env=ENVIRONMENT, cwd=ROOT, check=True)
    print(f"sample    {time.monotonic() - start:.0f} s")
    features = ("--data.features", str(folder / "corpus_features"))
    return Trainer(folder, *features, config="thousands", data=folder / "corpus")


@pytest.fixture(scope="module")
def features(trainer, seed) -> tuple[Path, Path]:
    """Return the stores of an uninterrupted extraction, and of one by two processes, one of them killed."""
    uninterrupted, shared = trainer.folder / "uninterrupted_features", trainer.folder / "corpus_features"
    start = time.monotonic()
    print(
        "extract  ",
        finish(start_extraction(trainer, uninterrupted, "--workers", "2")),
        f"{time.monotonic() - start:.0f} s",
    )
    shards = int(np.random.default_rng(seed).integers(20, 80)) * DIALOGUES // 2000

    def has_begun() -> bool:
        return len(list(shared.glob("shard-*.array_record"))) > shards and any(shared.glob("*.journal"))

    flags = [("--workers", "1", "--process", str(i), "--processes", "2") for i in range(2)]
    pair = [start_extraction(trainer, shared, *flag) for flag in flags]
    kill_when(pair[1], has_begun)
    print("killed    with", len(list(shared.glob("shard-*.array_record"))), "shards done")
    restarted = start_extraction(trainer, shared, *flags[1])
    for process in (pair[0], restarted):
        finish(process)
    return uninterrupted, shared


def test_features_equal_an_uninterrupted_runs_to_the_bit(features):
    uninterrupted, shared = (FeatureStore(folder) for folder in features)
    assert uninterrupted.keys == shared.keys and len(uninterrupted) > 4 * DIALOGUES
    assert (
        uninterrupted.manifest["settings"] == shared.manifest["settings"]
        and uninterrupted.manifest["counts"] == shared.manifest["counts"]
    )
    for path in sorted(features[0].glob("shard-*.array_record")):
        assert path.read_bytes() == (features[1] / path.name).read_bytes(), path.name
    assert not list(features[1].glob("*.journal")) and not list(features[1].glob("*.part"))


def test_every_example_once_an_epoch_whatever_was_killed(trainer, features, seed):
    """Stages 0 and 3 by two processes; one of them is killed, twice; both start again."""
    pair, rng = Pair(trainer), np.random.default_rng([seed, 1])
    ids = {e.id for e in read_examples(trainer.folder / "corpus", "train")[0]}
    for attempt, killed in enumerate(rng.integers(0, 2, 2)):
        started = pair.start("run", 2, "--stages", "0,3", *(["--resume"] if attempt else []))
        records = [r for r in trainer.read("run", "examples.jsonl")]
        step = (records[-1]["step"] if records else 0) + int(rng.integers(60, 160)) * DIALOGUES // 2000
        pair.wait_for("run", step, started)
        started[killed].send_signal(signal.SIGKILL)
        pair.finish(started)
    outs = pair.run("run", 2, "--stages", "0,3", "--resume")
    print(outs[0][-2000:])
    records = trainer.read("run", "examples.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    for stage in (0, 3):
        used = [i for record in records if record["stage"] == stage for i in record["examples"]]
        epochs = len(used) // len(ids)  # the last step may end before the last epoch does, or after it
        assert epochs >= EPOCHS - 1
        for epoch in range(epochs):
            part = used[epoch * len(ids) : (epoch + 1) * len(ids)]
            assert collections.Counter(part) == collections.Counter(ids)
    assert json.loads((trainer.folder / "run" / "config.json").read_text())["name"] == "load"
