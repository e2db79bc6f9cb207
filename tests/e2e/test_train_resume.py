"""`python train.py`: a run that is stopped or killed and resumed equals one that was not."""

import json
import random
import signal
import time

import numpy as np
import pytest

from empatheia_jax.checkpoints.manifest import checkpoint_folders
from support.damage import damage
from support.trainer import DIALOGUES, Trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Train an uninterrupted run, which is profiled, and one that is asked to stop twice."""
    trainer = Trainer(tmp_path_factory.mktemp("train"), "--llm.param-dtype", "bfloat16")
    trainer.profiled_output = trainer.run("uninterrupted", "--profile", "--profile-steps", "3")
    stop_at = [30, 0]  # in stage 0 between two checkpoints; then at the first step of what is left
    for number, more in enumerate(stop_at):
        process = trainer.start("stopped", *(["--resume"] if number else []))
        logged = len(trainer.read("stopped", "examples.jsonl")) if number else 0
        deadline = time.monotonic() + 120
        while len(trainer.read("stopped", "examples.jsonl")) <= logged + more and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        code, out, err = trainer.finish(process)
        assert code == 0, err[-2000:]
        trainer.stops = [*getattr(trainer, "stops", []), (out, trainer.last_step("stopped"))]
    trainer.run("stopped", "--resume")
    return trainer


def test_training_imports_no_torch(trainer):
    assert not trainer.torch_imported.exists()


def test_sigterm_stops_early_and_says_so(trainer):
    last = trainer.last_step("uninterrupted")
    out, step = trainer.stops[0]
    assert "stopping after this step" in out
    assert 30 < step < last


def test_a_resumed_run_logs_what_an_uninterrupted_one_logs_bit_for_bit(trainer):
    def without_timing(records):
        return [{name: value for name, value in record.items() if name != "tokens_per_second"} for record in records]

    uninterrupted, resumed = (
        without_timing(trainer.read(run, "metrics.jsonl")) for run in ("uninterrupted", "stopped")
    )
    assert {record["stage"] for record in uninterrupted} == {0, 1}
    assert any("validation_emp" in record for record in uninterrupted)
    assert resumed == uninterrupted
    assert uninterrupted[-1]["validation_emp"] < uninterrupted[0]["emp"]


def test_a_resumed_run_learns_from_the_same_examples_each_once_an_epoch(trainer):
    uninterrupted, resumed = (trainer.read(run, "examples.jsonl") for run in ("uninterrupted", "stopped"))
    assert resumed == uninterrupted
    assert [record["step"] for record in uninterrupted] == list(range(1, len(uninterrupted) + 1))
    train = 2 * (DIALOGUES - round(0.2 * DIALOGUES))
    used = [identity for record in uninterrupted if record["stage"] == 0 for identity in record["examples"]]
    for epoch in range(3):
        assert len(set(used[epoch * train : (epoch + 1) * train])) == train


def test_a_run_killed_at_random_moments_and_damaged_is_the_run_that_was_not(trainer, seed):
    """SIGKILL, twice: no handler runs and files stay half written. Then the newest checkpoint is damaged."""
    last, rng = trainer.last_step("uninterrupted"), random.Random(seed)
    assert trainer.kill_at("killed", rng.randrange(2, last // 2))
    assert trainer.kill_at("killed", rng.randrange(last // 2, last), "--resume")
    newest = checkpoint_folders(trainer.folder / "killed" / "checkpoints")[-1]
    damaged = damage(newest, np.random.default_rng([seed, 32]))
    code, _, err = trainer.finish(trainer.start("killed", "--resume"))
    assert code == 0, err[-2000:]
    assert f"checkpoint {newest.name} is damaged" in err and "the run goes on from" in err, (damaged, err)
    assert (trainer.folder / "killed" / "set_aside" / f"{newest.name}-1").is_dir()
    trainer.assert_equal("uninterrupted", "killed")


def test_what_is_left_behind_is_equal(trainer):
    for name in ("config.json", "tokenizer/tokenizer.json"):
        uninterrupted, stopped = ((trainer.folder / run / name).read_bytes() for run in ("uninterrupted", "stopped"))
        assert uninterrupted == stopped
    trainer.assert_equal("uninterrupted", "stopped")


def test_a_used_workdir_needs_resume_and_another_config_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("uninterrupted"))
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    code, _, err = trainer.finish(trainer.start("uninterrupted", "--resume", "--optim.b1", "0.5"))
    assert code == 2 and err.count("\n") == 1 and "another config" in err
    code, _, err = trainer.finish(trainer.start("fresh", "--data.path", str(trainer.folder / "nowhere")))
    assert code == 2 and err.count("\n") == 1 and "nowhere" in err
    assert not (trainer.folder / "fresh" / "config.json").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_its_examples_are_kept(trainer):
    code, _, err = trainer.finish(trainer.start("exploded", "--stages.0.learning-rate", "1e38"))
    assert code == 1 and "Traceback" not in err, err[-2000:]
    folder = trainer.folder / "exploded"
    (path,) = folder.glob("not_finite_*.json")
    report = json.loads(path.read_text())
    assert f"step {report['step']}: loss" in err and " nan;" in err and str(path) in err
    used = {record["step"]: record["examples"] for record in trainer.read("exploded", "examples.jsonl")}
    assert report["examples"] == used[report["step"]] and report["values"]["grad_norm"] == "nan"


def test_a_profile_is_a_page_and_a_trace_of_each_stage(trainer):
    """The other tests show that profiling changes nothing: the runs compared with this one are not profiled."""
    for stage, operation in ((0, "dot_general"), (1, "dot_general")):
        folder = trainer.folder / "uninterrupted" / "profile" / f"stage-{stage}"
        text = (folder / "profile.md").read_text()
        assert f"stage {stage}, steps 4 to 6" in text and "| traced | 3 steps" in text
        assert " | matmul | " in text and operation in text and "jit_step" in text
        assert len(list(folder.rglob("*.xplane.pb"))) == len(list(folder.rglob("perfetto_trace.json.gz"))) == 1
    assert trainer.profiled_output.count("profile  stage") == 2
    assert not (trainer.folder / "stopped" / "profile").exists()


def test_what_was_compiled_is_reported_and_a_resumed_run_has_it_from_the_cache(trainer):
    uninterrupted, stopped = (trainer.read(run, "compile.jsonl") for run in ("uninterrupted", "stopped"))
    assert [(r["stage"], r["name"]) for r in uninterrupted] == [(0, "step"), (0, "evaluation"), (1, "step")]
    assert not any(r["from_cache"] for r in uninterrupted) and len(stopped) > len(uninterrupted)
    assert all(r["from_cache"] for r in stopped)
    sizes = ("argument_bytes", "output_bytes", "alias_bytes", "temporary_bytes", "code_bytes", "flops")
    for record in stopped:
        original = next(r for r in uninterrupted if (r["stage"], r["name"]) == (record["stage"], record["name"]))
        assert [record[name] for name in sizes] == [original[name] for name in sizes]
    for record in uninterrupted:
        assert record["argument_bytes"] > 0 and record["lower_seconds"] > 0 and record["compile_seconds"] > 0
        assert (record["flops"] is None) == (record["name"] == "evaluation")


def test_a_profile_of_no_steps_is_refused(trainer):
    code, _, err = trainer.finish(trainer.start("no_steps", "--profile", "--profile-steps", "0"))
    assert code == 2 and err.count("\n") == 1 and "--profile-steps" in err
    assert not (trainer.folder / "no_steps").exists()
