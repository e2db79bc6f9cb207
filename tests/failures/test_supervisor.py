"""`python -m empatheia_jax.runtime.supervisor` continues runs whose processes are killed at random moments."""

import time

import numpy as np
import pytest

from support.programs import PROGRAMS, start_program
from support.supervised import Supervised, assert_each_once
from support.trainer import Trainer, assert_same_run

pytestmark = pytest.mark.slow  # minutes: runs are killed and started again


def kill_at_random(
    trainer: Trainer, workdir: str, processes: int, kills: int, *, rng: np.random.Generator, last: int, devices: int
) -> str:
    """Run under the supervisor with `kills` SIGKILLs of one process each, at random steps; returns the output."""
    run = Supervised(trainer, workdir, processes, "--checkpoint-every", "5", devices=devices, restarts=kills + 1)
    done = 0
    for step in sorted(int(step) for step in rng.choice(np.arange(1, last), kills, replace=False)):
        if not run.wait_for(step):
            break
        time.sleep(float(rng.uniform(0, 0.1)))
        done += run.kill_one(rng)
    output = run.finish()
    assert output.count("launch   process") == done and done >= kills - 2, output[-4000:]
    assert "exit code 0 after" in output and f"{done} restarts" in output
    return output


@pytest.fixture(scope="module")
def whole(pair):
    """Train the run that nothing happens to; returns the trainer and its last step."""
    pair.run("whole", 1, "--checkpoint-every", "5")
    return pair.trainer, pair.trainer.last_step("whole")


def test_two_kills_under_the_supervisor_leave_the_curve_of_one_process(whole, seed):
    trainer, last = whole
    output = kill_at_random(trainer, "killed", 2, 2, rng=np.random.default_rng([seed, 40]), last=last, devices=1)
    assert "SIGKILL" in output and "of work are done again" in output
    assert_same_run(trainer, "whole", "killed")
    assert_each_once(trainer, "killed", epochs=2)
    assert "goodput" in output and "2 restarts" in output.split("goodput")[1].splitlines()[0]


@pytest.mark.parametrize("processes, devices", [(2, 1), (4, 1)])
def test_twenty_kills_then_go_on_with_one_two_and_four_processes(tmp_path, seed, processes, devices):
    trainer = Trainer(tmp_path, "--stages.0.epochs", "40")
    name, rng = f"twenty-{processes}", np.random.default_rng([seed, processes])
    # 4 rows: meshes of 4, 2 and 1 devices take the same batch.
    rows = ("--data.rows", "4", "--checkpoint-every", "5")
    reference = Supervised(trainer, f"{name}-whole", 1, *rows, devices=4)
    reference.finish()
    last = trainer.last_step(f"{name}-whole")
    run = Supervised(trainer, name, processes, *rows, devices=4 // processes, restarts=30)
    kills = 0
    while kills < 20 and run.wait_for(min(run.step() + int(rng.integers(1, 6)), last - 2)):
        kills += run.kill_one(rng)
    run.wait_for(run.step() + 1)  # trains again
    # Stopped, and continued by other numbers of processes, a few steps each.
    run.stop()
    for number in (1, 4):
        again = Supervised(trainer, name, number, *rows, "--resume", devices=4 // number)
        again.wait_for(run.step() + 3)
        again.stop()
    Supervised(trainer, name, 2, *rows, "--resume", devices=2).finish()
    assert_same_run(trainer, f"{name}-whole", name)
    assert_each_once(trainer, name, epochs=40)
    assert kills == 20
    print(f"{processes} processes: {kills} kills, {last} steps")


def test_sigterm_to_the_supervisor_saves_and_a_wrong_argument_is_not_tried_again(whole):
    trainer, _ = whole
    run = Supervised(trainer, "asked", 2)
    run.wait_for(2)
    assert "SIGTERM: passed on" in run.stop()
    newest = max(int(path.name) for path in (run.folder / "checkpoints").iterdir())
    assert newest == run.step()
    wrong = Supervised(trainer, "asked", 1)  # a used workdir without --resume
    assert wrong.process.wait(timeout=120) == 2
    output = wrong.log.read_text()
    assert "another start would not help" in output and "0 restarts" in output


def test_giving_up_after_restarts_without_a_checkpoint(tmp_path):
    """A process that dies at each start is restarted K times, with pauses that double; the exit code has its signal."""
    flags = ("--restarts", "2", "--backoff", "0.1", "--", "none", "--workdir", tmp_path / "run")
    process = start_program("supervise", PROGRAMS / "die.py", *flags)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + 9
    assert "restart 1 of 2 in 0.1 s" in err and "restart 2 of 2 in 0.2 s" in err
    assert "giving up" in err
