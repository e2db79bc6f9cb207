"""A tuned run exported to PEFT, its base and adapter imported again, and trained further: it continues where it was."""

import subprocess
import sys

import pytest
from trainer import ROOT, Trainer

pytest.importorskip("transformers")

CONTINUED = """
from empatheia_jax.config.load import load_llm_config
_first = get_config
def get_config():
    first = _first()
    rate = dataclasses.replace(first.stages["1"], epochs=2, learning_rate=RATE)
    return dataclasses.replace(
        first, base=BASE, adapter=ADAPTER, stages=first.stages | {"1": rate},
        llm=load_llm_config(BASE, compute_dtype="float32", param_dtype="float32", max_length=first.llm.max_length),
    )
"""


def converters(*arguments) -> str:
    command = [sys.executable, "-m", "converters", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def validations(trainer: Trainer, run: str) -> list[float]:
    return [record["validation_emp"] for record in trainer.read(run, "metrics.jsonl") if "validation_emp" in record]


@pytest.mark.slow
def test_a_run_goes_on_from_what_it_exported(tmp_path):
    trainer = Trainer(tmp_path, epochs=8)
    code, _, err = trainer.finish(trainer.start("first"))
    assert code == 0, err
    after_base, tuned = validations(trainer, "first")
    assert tuned != after_base
    converters("export", "--run", tmp_path / "first", "--format", "peft", "--output", tmp_path / "peft")
    converters("vicuna", "--input", tmp_path / "peft" / "base", "--output", tmp_path / "base")
    converters("peft", "--input", tmp_path / "peft", "--base", tmp_path / "base", "--output", tmp_path / "adapter")
    config = trainer.config.read_text() + CONTINUED.replace("BASE", repr(str(tmp_path / "base"))).replace(
        "ADAPTER", repr(str(tmp_path / "adapter"))
    )
    for run, learning_rate in (("unchanged", "0.0"), ("continued", "1e-3")):
        trainer.config.write_text(config.replace("RATE", learning_rate))
        code, _, err = trainer.finish(trainer.start(run))
        assert code == 0, err
    (unchanged,), (continued,) = validations(trainer, "unchanged"), validations(trainer, "continued")
    assert unchanged == pytest.approx(tuned, rel=1e-5)
    assert continued < unchanged
