"""`python train.py` on a few dialogues, as a process that tests stop, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from orbax.checkpoint import v1 as ocp
from small import FEELINGS, THINGS, make_store

from empatheia_jax.config import Config
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.features.store import store_settings
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_shard
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.planning.local import config_widths

ROOT = Path(__file__).resolve().parents[1]
DIALOGUES = 10

TEXT = """
import dataclasses
from empatheia_jax.config import *
def get_config():
    stage = StageConfig(epochs=1, learning_rate=1e-3)
    return Config(
        name="e2e", modalities=(), seed=3, log_every=1, checkpoint_every=25, compile_ahead=True,
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=320), width=16, layers=1, heads=2, kv_heads=1, head_dim=8,
                                mlp_width=16),
        lora=LoraConfig(rank=2, dropout=0.1), prompt=PromptConfig(instruction="short"),
        data=DataConfig(path={path!r}, rows=2, row_tokens=384, row_examples=1, row_targets=256, word_swap=0.5),
        optim=OptimConfig(accumulate=2),
        stages={{"0": StageConfig(epochs={epochs}, learning_rate=1e-3), "1": StageConfig(epochs=4, learning_rate=1e-3),
                "2": stage, "3": stage, "4": stage}},
    )
"""


def write_corpus(folder: Path) -> None:
    """Write a text-only corpus of DIALOGUES dialogues in the released layout."""
    dialogues = []
    for number in range(DIALOGUES):
        thing, feeling = THINGS[number], FEELINGS[number % len(FEELINGS)]
        utterances = [
            f"I lost my {thing}.",
            f"Was the {thing} dear?",
            f"Yes, I am {feeling}.",
            f"A {thing} can come back.",
        ]
        chain = {
            "speaker_emotion": "sad",
            "event_scenario": f"losing a {thing}",
            "emotion_cause": "it is gone",
            "goal_to_response": "comfort",
        }
        turns = [
            {
                "turn_id": str(turn),
                "context": "Loss.",
                "response": utterances[2 * turn + 1],
                "chain_of_empathy": chain,
                "dialogue_history": [
                    {"index": i, "role": ("speaker", "listener")[i % 2], "utterance": utterances[i]}
                    for i in range(2 * turn + 1)
                ],
            }
            for turn in range(2)
        ]
        profile = {"age": "young", "gender": "female", "timbre": "mid", "ID": 1}
        dialogues.append(
            {
                "conversation_id": f"{number:05d}",
                "speaker_profile": profile,
                "listener_profile": profile,
                "topic": "Life Events",
                "turns": turns,
            }
        )
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(dialogues))


ALL_STAGES = """
import dataclasses
from empatheia_jax.config import *
def get_config():
    stage = StageConfig(epochs=4, learning_rate=1e-3)
    return Config(
        name="e2e", seed=4, log_every=1, checkpoint_every=3, compile_ahead=True,
        llm=dataclasses.replace(LlamaConfig.tiny(vocab_size=320), width=16, layers=1, heads=2, kv_heads=1, head_dim=8,
                                mlp_width=16),
        lora=LoraConfig(rank=2, dropout=0.1), prompt=PromptConfig(instruction="short"),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=16, heads=2, mlp_width=16, encoder_layers=1, decoder_layers=1, whiten=True),
        data=DataConfig(path={path!r}, features={path!r} + "/features", rows=2, row_tokens=512, row_examples=2,
                        row_utterances=8, row_targets=320, response_tokens=48, phonemes=24, frames=40, word_swap=0.5,
                        recast=0.5),
        optim=OptimConfig(accumulate=1),
        stages={{name: stage for name in "01234"}},
    )
"""


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


class Trainer:
    """Runs of one config, each in its own folder below `folder`."""

    def __init__(self, folder: Path, config: str = TEXT, data: Path | None = None, epochs: int = 50):
        """Write the config, and the corpus if there is none.

        Args:
          folder: folder of all runs.
          config: text of the config file: TEXT, ALL_STAGES or another.
          data: folder of a corpus; None: one is written.
          epochs: epochs of TEXT's stage 0.
        """
        self.folder = folder
        if data is None:
            data = folder / "data"
            write_corpus(data)
            if config is ALL_STAGES:
                write_features(data)
        self.config = folder / "config.py"
        self.config.write_text(config.format(path=str(data), epochs=epochs))
        # A torch that cannot be imported, and that records every attempt.
        (folder / "none" / "torch").mkdir(parents=True)
        self.torch_imported = folder / "torch_imported"
        (folder / "none" / "torch" / "__init__.py").write_text(
            f"open({str(self.torch_imported)!r}, 'w').close()\nraise ModuleNotFoundError('no torch', name='torch')\n"
        )
        self.env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(folder / "none"), str(ROOT)]),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "",
        }

    def start(self, workdir: str, *flags: str) -> subprocess.Popen:
        """Start a run in FOLDER/workdir."""
        paths = [str(ROOT / "train.py"), str(self.config), "--workdir", str(self.folder / workdir)]
        command = [sys.executable, *paths, *flags]
        return subprocess.Popen(
            command, env=self.env, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def finish(self, process: subprocess.Popen) -> tuple[int, str, str]:
        """Wait for a run and return (exit code, stdout, stderr)."""
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    def read(self, workdir: str, name: str) -> list[dict]:
        """Return the records of a JSON lines file of a run; a last line that is not complete is left out."""
        path = self.folder / workdir / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def weights(self, workdir: str) -> dict[str, np.ndarray]:
        """Return all arrays of a finished run: its base, and the newest checkpoint's parameters and optimizer."""
        folder = self.folder / workdir
        newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
        checkpoint = ocp.load_checkpointables(str(newest), {"params": None, "optimizer": None})
        parts = {"base": ocp.load(str(folder / "base")), **checkpoint}
        return {f"{part}/{name}": np.asarray(array) for part, arrays in parts.items() for name, array in arrays.items()}

    def kill_at(self, workdir: str, step: int, *flags: str) -> bool:
        """Start a run and SIGKILL it once it has logged `step`; return whether it was still running."""
        process = self.start(workdir, *flags)
        deadline = time.monotonic() + 240
        while process.poll() is None and not any(
            record["step"] >= step for record in self.read(workdir, "examples.jsonl")[-1:]
        ):
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
