"""`python train.py`: a run that is stopped or killed and resumed is the run that was not."""

import json
import random
import signal
import time

import numpy as np
import pytest
from damage import damage
from trainer import DIALOGUES, Trainer

from empatheia_jax.manifest import numbered


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A whole run, which is profiled, and one that was asked to stop twice."""
    made = Trainer(tmp_path_factory.mktemp("train"))
    code, made.said, err = made.finish(made.start("whole", "--profile", "--profile-steps", "3"))
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


def test_training_imports_no_torch(trainer):
    assert not trainer.torch_imported.exists()


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


def test_a_run_killed_at_random_moments_and_damaged_is_the_run_that_was_not(trainer, seed):
    """SIGKILL, twice: no handler runs, what was being written is left as it was. Then the newest checkpoint rots."""
    last, drawn = trainer.read("whole", "examples.jsonl")[-1]["step"], random.Random(seed)
    assert trainer.kill_at("killed", drawn.randrange(2, last // 2))
    assert trainer.kill_at("killed", drawn.randrange(last // 2, last), "--resume")
    newest = numbered(trainer.folder / "killed" / "checkpoints")[-1]
    done = damage(newest, np.random.default_rng([seed, 32]))
    code, _, err = trainer.finish(trainer.start("killed", "--resume"))
    assert code == 0, err[-2000:]
    assert f"checkpoint {newest.name} is damaged" in err and "the run goes on from" in err, (done, err)
    assert (trainer.folder / "killed" / "set_aside" / f"{newest.name}-1").is_dir()
    trainer.assert_equal("whole", "killed")


def test_what_is_left_behind_is_equal(trainer):
    for name in ("config.json", "tokenizer/tokenizer.json"):
        whole, stopped = ((trainer.folder / run / name).read_bytes() for run in ("whole", "stopped"))
        assert whole == stopped
    trainer.assert_equal("whole", "stopped")


def test_a_used_workdir_needs_resume_and_another_config_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("whole"))
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    code, _, err = trainer.finish(trainer.start("whole", "--resume", "--optim.b1", "0.5"))
    assert code == 2 and err.count("\n") == 1 and "another config" in err
    code, _, err = trainer.finish(trainer.start("fresh", "--data.path", str(trainer.folder / "nowhere")))
    assert code == 2 and err.count("\n") == 1 and "nowhere" in err
    assert not (trainer.folder / "fresh" / "config.json").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_its_examples_are_kept(trainer):
    code, _, err = trainer.finish(trainer.start("exploded", "--stages.0.learning-rate", "1e38"))
    assert code == 1 and "Traceback" not in err, err[-2000:]
    folder = trainer.folder / "exploded"
    (path,) = folder.glob("not_finite_*.json")
    kept = json.loads(path.read_text())
    assert f"step {kept['step']}: loss" in err and " nan;" in err and str(path) in err
    taken = {record["step"]: record["examples"] for record in trainer.read("exploded", "examples.jsonl")}
    assert kept["examples"] == taken[kept["step"]] and kept["values"]["grad_norm"] == "nan"


def test_a_profile_is_a_page_and_a_trace_of_each_stage(trainer):
    """That it changes nothing is what the other tests say: the runs that are compared with this one have none."""
    for stage, product in ((0, "dot_general"), (1, "dot_general")):
        folder = trainer.folder / "whole" / "profile" / f"stage-{stage}"
        text = (folder / "profile.md").read_text()
        assert f"stage {stage}, steps 4 to 6" in text and "| traced | 3 steps" in text
        assert " | matmul | " in text and product in text and "jit_step" in text
        assert len(list(folder.rglob("*.xplane.pb"))) == len(list(folder.rglob("perfetto_trace.json.gz"))) == 1
    assert trainer.said.count("profile  stage") == 2
    assert not (trainer.folder / "stopped" / "profile").exists()


def test_what_was_compiled_is_reported_and_a_resumed_run_has_it_from_the_cache(trainer):
    whole, stopped = (trainer.read(run, "compile.jsonl") for run in ("whole", "stopped"))
    assert [(r["stage"], r["name"]) for r in whole] == [(0, "step"), (0, "evaluation"), (1, "step")]
    assert not any(r["from_cache"] for r in whole) and len(stopped) > len(whole)
    assert all(r["from_cache"] for r in stopped)
    sizes = ("argument_bytes", "output_bytes", "alias_bytes", "temporary_bytes", "code_bytes", "flops")
    for record in stopped:
        one = next(r for r in whole if (r["stage"], r["name"]) == (record["stage"], record["name"]))
        assert [record[name] for name in sizes] == [one[name] for name in sizes]
    for record in whole:
        assert record["argument_bytes"] > 0 and record["lower_seconds"] > 0 and record["compile_seconds"] > 0
        assert (record["flops"] is None) == (record["name"] == "evaluation")


def test_a_profile_of_no_steps_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("no_steps", "--profile", "--profile-steps", "0"))
    assert code == 2 and err.count("\n") == 1 and "--profile-steps" in err
    assert not (trainer.folder / "no_steps").exists()
