"""`python train.py` on a handful of dialogues: a run that is stopped by SIGTERM and resumed is the run that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import FEELINGS, THINGS

ROOT = Path(__file__).resolve().parents[2]
DIALOGUES = 10

CONFIG = """
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
        stages={{"0": StageConfig(epochs=50, learning_rate=1e-3), "1": StageConfig(epochs=4, learning_rate=1e-3),
                "2": stage, "3": stage, "4": stage}},
    )
"""


def write_corpus(folder: Path) -> None:
    dialogues = []
    for number in range(DIALOGUES):
        thing, feeling = THINGS[number], FEELINGS[number % len(FEELINGS)]
        said = [f"I lost my {thing}.", f"Was the {thing} dear?", f"Yes, I am {feeling}.", f"A {thing} can come back."]
        chain = {
            "speaker_emotion": "sad", "event_scenario": f"losing a {thing}", "emotion_cause": "it is gone",
            "goal_to_response": "comfort",
        }  # fmt: skip
        turns = [
            {
                "turn_id": str(turn), "context": "Loss.", "response": said[2 * turn + 1], "chain_of_empathy": chain,
                "dialogue_history": [
                    {"index": i, "role": ("speaker", "listener")[i % 2], "utterance": said[i]}
                    for i in range(2 * turn + 1)
                ],
            }
            for turn in range(2)
        ]  # fmt: skip
        profile = {"age": "young", "gender": "female", "timbre": "mid", "ID": 1}
        dialogues.append(
            {
                "conversation_id": f"{number:05d}", "speaker_profile": profile, "listener_profile": profile,
                "topic": "Life Events", "turns": turns,
            }
        )  # fmt: skip
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(dialogues))


class Trainer:
    def __init__(self, folder: Path):
        self.folder = folder
        write_corpus(folder / "data")
        self.config = folder / "config.py"
        self.config.write_text(CONFIG.format(path=str(folder / "data")))
        self.env = os.environ | {
            "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": "",
        }  # fmt: skip

    def start(self, workdir: str, *more: str) -> subprocess.Popen:
        place = ["--workdir", str(self.folder / workdir)]
        command = [sys.executable, str(ROOT / "train.py"), str(self.config), *place, *more]
        return subprocess.Popen(
            command, env=self.env, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def finish(self, process: subprocess.Popen) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def read(self, workdir: str, name: str) -> list[dict]:
        path = self.folder / workdir / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A whole run, and one that was asked to stop twice."""
    made = Trainer(tmp_path_factory.mktemp("train"))
    code, out, err = made.finish(made.start("whole"))
    assert code == 0, err[-2000:]
    stop_at = [30, 0]  # in stage 0 between two checkpoints; then at the first step of what is left
    for number, wanted in enumerate(stop_at):
        process = made.start("stopped", *(["--resume"] if number else []))
        done = len(made.read("stopped", "examples.jsonl")) if number else 0
        deadline = time.monotonic() + 120
        while len(made.read("stopped", "examples.jsonl")) <= done + wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        code, out, err = made.finish(process)
        assert code == 0, err[-2000:]
        made.stops = [*getattr(made, "stops", []), (out, made.read("stopped", "examples.jsonl")[-1]["step"])]
    code, out, err = made.finish(made.start("stopped", "--resume"))
    assert code == 0, err[-2000:]
    return made


def test_sigterm_stops_early_and_says_so(trainer):
    last = trainer.read("whole", "examples.jsonl")[-1]["step"]
    out, step = trainer.stops[0]
    assert "stopping after this step" in out
    assert 30 < step < last


def test_a_resumed_run_logs_what_an_uninterrupted_one_logs_bit_for_bit(trainer):
    def without_timing(records):
        return [{name: value for name, value in record.items() if name != "tokens_per_second"} for record in records]

    whole, resumed = (without_timing(trainer.read(run, "metrics.jsonl")) for run in ("whole", "stopped"))
    assert {record["stage"] for record in whole} == {0, 1}
    assert any("validation_emp" in record for record in whole)
    assert resumed == whole
    assert whole[-1]["validation_emp"] < whole[0]["emp"]


def test_a_resumed_run_learns_from_the_same_examples_each_once_an_epoch(trainer):
    whole, resumed = (trainer.read(run, "examples.jsonl") for run in ("whole", "stopped"))
    assert resumed == whole
    assert [record["step"] for record in whole] == list(range(1, len(whole) + 1))
    train = 2 * (DIALOGUES - round(0.2 * DIALOGUES))
    taken = [identity for record in whole if record["stage"] == 0 for identity in record["examples"]]
    for epoch in range(3):
        assert len(set(taken[epoch * train : (epoch + 1) * train])) == train


def test_what_is_left_behind_is_equal(trainer):
    for name in ("config.json", "tokenizer/tokenizer.json"):
        whole, stopped = ((trainer.folder / run / name).read_bytes() for run in ("whole", "stopped"))
        assert whole == stopped
    stopped = trainer.folder / "stopped"
    assert (stopped / "base").is_dir() and any((stopped / "checkpoints").iterdir())


def test_a_used_workdir_needs_resume_and_another_config_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("whole"))
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    code, _, err = trainer.finish(trainer.start("whole", "--resume", "--optim.b1", "0.5"))
    assert code == 2 and err.count("\n") == 1 and "another config" in err
    code, _, err = trainer.finish(trainer.start("fresh", "--data.path", str(trainer.folder / "nowhere")))
    assert code == 2 and err.count("\n") == 1 and "nowhere" in err
    assert not (trainer.folder / "fresh" / "config.json").exists()
