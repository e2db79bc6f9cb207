"""`python train.py` on a few dialogues, as a process that tests stop, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from empatheia_jax.config import Config
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.features.store import store_settings
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_shard
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.planning.local import config_widths
from empatheia_jax.testing.corpus import write_text_corpus
from empatheia_jax.testing.tiny import make_store
from support.programs import PROGRAMS, PYTHONPATH, ROOT, program_environment

CONFIGS = Path(__file__).resolve().parent / "configs"
DIALOGUES = 10


def write_features(folder: Path) -> None:
    """Write a feature store of random arrays with the shapes of the classical encoders and generators."""
    config = Config()
    encoders, (speech, face) = build_encoders(config.encoders), build_generators(config.generators)
    widths = config_widths(config)
    examples = [example for split in ("train", "validation") for example in read_examples(folder, split)[0]]
    writer = FeatureWriter(folder / "features", store_settings(encoders, speech, face), "0", 1)
    stored = make_store(examples, widths=widths).items()
    utterances = [pack_utterance(key, arrays, writer.float_dtype) for key, arrays in stored]
    write_shard(folder / "features", 0, utterances, {"rejected": [], "counts": {}})
    writer.finish({})


def _on_this_device(described: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the abstract arrays of a checkpoint's metadata, to be loaded on one device whatever held them."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device) for name, array in described.items()}


class Trainer:
    """Runs of one config, each in its own folder below `folder`."""

    def __init__(self, folder: Path, *flags: str, config: str = "text_only", data: Path | None = None):
        """Write the corpus if there is none, with features for a config with modalities.

        Args:
          folder: folder of all runs.
          *flags: flags of every run, which override the config.
          config: name of a file of `support/configs`.
          data: folder of a corpus, with features in its folder `features`; None: one is written.
        """
        self.folder = folder
        if data is None:
            data = write_text_corpus(folder / "data", DIALOGUES)
            if config == "all_stages":
                write_features(data)
        self.config = CONFIGS / f"{config}.py"
        features = () if config == "text_only" else ("--data.features", str(data / "features"))
        self.flags = ("--data.path", str(data), *features, *flags)
        # A torch that cannot be imported, and that records every attempt.
        no_torch = folder / "none" / "torch"
        no_torch.mkdir(parents=True)
        shutil.copy(PROGRAMS / "no_torch.py", no_torch / "__init__.py")
        self.torch_imported = no_torch / "imported"
        self.env = program_environment() | {
            "PYTHONPATH": os.pathsep.join([str(no_torch.parent), PYTHONPATH]),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "",
        }

    def start(self, workdir: str, *flags: str, **variables: str) -> subprocess.Popen:
        """Start a run in FOLDER/workdir, with environment variables."""
        paths = [str(ROOT / "train.py"), str(self.config), "--workdir", str(self.folder / workdir)]
        command = [sys.executable, *paths, *self.flags, *flags]
        return subprocess.Popen(
            command,
            env=self.env | variables,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, process: subprocess.Popen) -> tuple[int, str, str]:
        """Wait for a run and return (exit code, stdout, stderr)."""
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    def run(self, workdir: str, *flags: str) -> str:
        """Run in FOLDER/workdir, which must end well, and return stdout."""
        code, out, err = self.finish(self.start(workdir, *flags))
        assert code == 0, err[-3000:]
        return out

    def read(self, workdir: str, name: str) -> list[dict]:
        """Return the records of a JSON lines file of a run; a last line that is not complete is left out."""
        path = self.folder / workdir / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def last_step(self, workdir: str) -> int:
        """Return the last step that a run has logged."""
        records = self.read(workdir, "examples.jsonl")
        return records[-1]["step"] if records else 0

    def weights(self, workdir: str) -> dict[str, np.ndarray]:
        """Return all arrays of a finished run: its base, and the newest checkpoint's parameters and optimizer."""
        folder = self.folder / workdir
        newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
        described = ocp.checkpointables_metadata(str(newest)).metadata
        abstract = {part: _on_this_device(described[part]) for part in ("params", "optimizer")}
        base = str(folder / "base")
        parts = {"base": ocp.load(base, _on_this_device(ocp.metadata(base).metadata))}
        parts |= ocp.load_checkpointables(str(newest), abstract)
        return {f"{part}/{name}": np.asarray(array) for part, arrays in parts.items() for name, array in arrays.items()}

    def kill_at(self, workdir: str, step: int, *flags: str) -> bool:
        """Start a run and SIGKILL it once it has logged `step`; return whether it was still running."""
        process = self.start(workdir, *flags)
        deadline = time.monotonic() + 240
        while process.poll() is None and self.last_step(workdir) < step:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        was_running = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return was_running

    def assert_equal(self, workdir: str, other_workdir: str) -> None:
        """Assert that two runs have the same records, except for speed, and bitwise the same weights."""
        for name in ("metrics.jsonl", "examples.jsonl"):
            first, second = (
                [
                    {key: value for key, value in record.items() if key != "tokens_per_second"}
                    for record in self.read(run, name)
                ]
                for run in (workdir, other_workdir)
            )
            assert second == first, name
        first, second = self.weights(workdir), self.weights(other_workdir)
        assert first.keys() == second.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(second[name], array, err_msg=name)


def assert_same_run(trainer: Trainer, reference: str, workdir: str) -> None:
    """Assert that two runs have the same Examples in each step, and the same losses except for the order of sums."""
    assert trainer.read(workdir, "examples.jsonl") == trainer.read(reference, "examples.jsonl")
    actual, expected = trainer.read(workdir, "metrics.jsonl"), trainer.read(reference, "metrics.jsonl")
    assert [record["step"] for record in actual] == [record["step"] for record in expected]
    for a, b in zip(actual, expected, strict=True):
        for name in a.keys() - {"tokens_per_second", "mfu"}:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-3, err_msg=f"step {a['step']} {name}")
