"""Ctrl-C at twenty moments of each command: one line, exit code 130, nothing left behind, and the work can go on.

`EMPATHEIA_MOMENTS` is another number of moments.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import random_llama

from empatheia_jax.checkpoints.weights import read_metadata
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.testing.corpus import write_corpus
from support.ending import after, end, leftovers, start
from support.programs import PROGRAMS, ROOT
from support.trainer import Trainer

pytestmark = pytest.mark.slow
MOMENTS = int(os.environ.get("EMPATHEIA_MOMENTS", 20))
FINISHED = 7  # each so many moments the command is run again to its end, and compared


@dataclasses.dataclass
class Command:
    """A command that writes a folder.

    Attributes:
      words: its arguments, by the folder.
      result: what an uninterrupted one and one that was continued must have in common, by the folder.
      again: further arguments where it continues.
    """

    words: Callable[[Path], tuple]
    result: Callable[[Path], object]
    again: tuple[str, ...] = ()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _features(folder: Path) -> dict[str, np.ndarray]:
    store = FeatureStore(folder / "features")
    return {f"{key}/{name}": array for key in store.keys for name, array in store[key].items()}


def _without(value, *names: str):
    return {key: field for key, field in value.items() if key not in names}


def _report(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text())
    report["settings"] = _without(report["settings"], "decoding")
    assert (folder / "report.html").exists()
    return _without(report, "command", "date", "seconds")


def _answer(folder: Path) -> tuple[dict, int]:
    answer = json.loads((folder / "answer" / "out.json").read_text())
    return _without(answer, "timings", "first", "provenance"), (folder / "answer" / "out.mp4").stat().st_size


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, Command]:
    folder = tmp_path_factory.mktemp("inputs")
    corpus = write_corpus(folder / "corpus")
    random_llama.write_checkpoint(folder / "llama", "tiny")
    (folder / "trainer").mkdir()
    trainer = Trainer(folder / "trainer")
    short = ("--stages", "0,1", "--stages.0.epochs", "6", "--stages.1.epochs", "2", "--checkpoint-every", "7")
    trainer.run("whole", *short)

    def weights(run: Path) -> dict:
        trainer.assert_equal("whole", str(run))
        return {}

    return {
        "sample": Command(
            lambda path: ("-m", "empatheia_jax", "sample", "--output", path, "--dialogues", 14, "--workers", 2), _hashes
        ),
        "extract": Command(
            lambda path: (
                *("-m", "empatheia_jax", "extract", ROOT / "configs" / "tiny.py"),
                *("--data.path", corpus, "--workdir", path, "--workers", 2),
            ),
            _features,
        ),
        "train": Command(
            lambda path: (ROOT / "train.py", trainer.config, "--workdir", path, *trainer.flags, *short),
            weights,
            ("--resume",),
        ),
        "evaluate": Command(
            lambda path: (
                *("-m", "empatheia_jax", "evaluate", "--split", "validation"),
                *("--run", trainer.folder / "whole", "--output", path),
            ),
            _report,
        ),
        "respond": Command(lambda path: (PROGRAMS / "answer.py", path), _answer),
        "converters": Command(
            lambda path: ("-m", "converters", "vicuna", "--input", folder / "llama", "--output", path / "weights"),
            lambda path: read_metadata(path / "weights")["sha256"],
        ),
    }


def assert_equal(first, second) -> None:
    """Assert equality; of arrays within a tolerance, as products depend on the number of threads."""
    if isinstance(first, dict) and any(isinstance(value, np.ndarray) for value in first.values()):
        assert first.keys() == second.keys()
        for name, array in first.items():
            np.testing.assert_allclose(second[name], array, rtol=2e-3, atol=2e-3, err_msg=name)
    else:
        assert first == second


@pytest.mark.parametrize("name", ["sample", "extract", "train", "evaluate", "respond", "converters"])
def test_twenty_moments(name, commands, tmp_path, seed):
    command, rng = commands[name], random.Random(seed)
    cache = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def run(folder: Path, *more: str) -> float:
        began = time.monotonic()
        process = start(*command.words(folder), *more, **cache)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-2000:]
        return time.monotonic() - began

    for folder in ("first", "whole"):  # the first run compiles for the others
        (tmp_path / folder).mkdir()
        seconds = run(tmp_path / folder)
    expected, clean = command.result(tmp_path / "whole"), []
    for moment in range(MOMENTS):
        folder = tmp_path / f"moment-{moment}"
        folder.mkdir()
        fraction = (moment + rng.random()) / MOMENTS
        ended = end(start(*command.words(folder), **cache), after(fraction * seconds), group=moment % 2 == 0)
        if ended is not None:  # else it was faster than the first time
            ended.assert_clean()
            assert not leftovers(tmp_path), fraction
            clean.append((round(fraction, 2), round(ended.seconds, 2)))
        if moment % FINISHED == 3:
            run(folder, *(command.again if any(folder.iterdir()) else ()))
            assert_equal(expected, command.result(folder))
        shutil.rmtree(folder)
    print(f"{name}: {len(clean)} of {MOMENTS} moments, all clean: (fraction of the run, seconds to the end) {clean}")
    assert len(clean) >= MOMENTS // 2


def test_sigterm_to_training_saves_and_exits_0_and_ctrl_c_saves_and_exits_130(commands, tmp_path):
    """Between steps both write a checkpoint; what follows in a script runs after the one and not after the other."""
    train = commands["train"]
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        folder = tmp_path / str(code)
        examples = folder / "examples.jsonl"
        ended = end(
            start(*train.words(folder)),
            lambda path=examples: path.exists() and path.read_text().count("\n") > 2,
            number,
        )
        assert ended is not None and ended.code == code, ended
        assert ended.out.count("stopping after this step") == 1 and ended.err.count("interrupted") == (code == 130)
        steps = examples.read_text().count("\n")
        assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(steps)]


def test_training_outlives_its_terminal(commands, tmp_path):
    """SIGHUP, and both streams without a reader from the first line on."""
    train = commands["train"]
    process = start(*train.words(tmp_path / "run"))
    assert process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(600) == 0
    train.result(tmp_path / "run")


@pytest.mark.parametrize("command, number", [("respond", signal.SIGTERM), ("evaluate", signal.SIGTERM)])
def test_sigterm_to_the_other_commands(command, number, commands, tmp_path):
    for seconds in (3, 6):
        ended = end(start(*commands[command].words(tmp_path)), after(seconds), number, group=False)
        if ended is not None:
            ended.assert_clean(128 + number)
