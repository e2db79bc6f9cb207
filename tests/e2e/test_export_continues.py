"""A tuned run exported to PEFT, its base and adapter imported again, and trained further: it continues where it was."""

import subprocess
import sys

import pytest

from support.programs import ROOT
from support.trainer import CONFIGS, Trainer

pytest.importorskip("transformers")


def converters(*arguments) -> str:
    command = [sys.executable, "-m", "converters", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def validations(trainer: Trainer, run: str) -> list[float]:
    return [record["validation_emp"] for record in trainer.read(run, "metrics.jsonl") if "validation_emp" in record]


@pytest.mark.slow
def test_a_run_goes_on_from_what_it_exported(tmp_path):
    trainer = Trainer(tmp_path)
    trainer.run("first", "--stages.0.epochs", "8")
    after_base, tuned = validations(trainer, "first")
    assert tuned != after_base
    converters("export", "--run", tmp_path / "first", "--format", "peft", "--output", tmp_path / "peft")
    converters("vicuna", "--input", tmp_path / "peft" / "base", "--output", tmp_path / "base")
    converters("peft", "--input", tmp_path / "peft", "--base", tmp_path / "base", "--output", tmp_path / "adapter")
    trainer.config = CONFIGS / "continued.py"
    for run, learning_rate in (("unchanged", "0.0"), ("continued", "1e-3")):
        trainer.run(run, "--stages.1.learning-rate", learning_rate)
    (unchanged,), (continued,) = validations(trainer, "unchanged"), validations(trainer, "continued")
    assert unchanged == pytest.approx(tuned, rel=1e-5)
    assert continued < unchanged
