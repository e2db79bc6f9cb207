"""Training by two processes is training by one, killed or not, and either number continues the other's run."""

import json
import signal

import numpy as np
import pytest

from support.pair import Pair
from support.trainer import DIALOGUES, Trainer, assert_same_run


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(Trainer(tmp_path_factory.mktemp("pair"), "--stages.0.epochs", "12"))
    pair.run("whole", 1)
    return pair


@pytest.mark.slow
def test_two_processes_train_as_one_does(pair):
    outs = pair.run("two", 2)
    assert "done" in outs[0] and "loss" not in outs[1]  # one process writes the log
    assert_same_run(pair.trainer, "whole", "two")


def test_one_is_killed_and_one_process_goes_on(pair, seed):
    """After a SIGKILL of either the other ends by itself; a single process resumes; each Example is used once."""
    last = pair.trainer.last_step("whole")
    step = int(np.random.default_rng(seed).integers(26, last))
    started = pair.start("killed", 2)
    pair.wait_for("killed", step, started)
    victim = seed % 2
    started[victim].send_signal(signal.SIGKILL)
    ends = pair.finish(started)
    code, _, err = ends[1 - victim]
    assert ends[victim][0] == -signal.SIGKILL and code == 75, err[-2000:]
    assert err.count("train.py: lost another process of this run") == 1 and "Traceback" not in err
    pair.run("killed", 1, "--resume")
    assert_same_run(pair.trainer, "whole", "killed")
    train = 2 * (DIALOGUES - round(0.2 * DIALOGUES))
    learned = [i for r in pair.trainer.read("killed", "examples.jsonl") if r["stage"] == 0 for i in r["examples"]]
    for epoch in range(2):
        assert len(set(learned[epoch * train : (epoch + 1) * train])) == train


@pytest.mark.slow
def test_a_stop_wished_in_one_process_stops_both(pair):
    started = pair.start("stopped", 2)
    pair.wait_for("stopped", 3, started)
    started[1].send_signal(signal.SIGTERM)
    for code, _, err in pair.finish(started):
        assert code == 0, err[-2000:]
    stopped, whole = (pair.trainer.last_step(run) for run in ("stopped", "whole"))
    assert stopped < whole
    pair.run("stopped", 2, "--resume")
    assert_same_run(pair.trainer, "whole", "stopped")


@pytest.mark.slow
def test_all_stages(tmp_path):
    pair = Pair(Trainer(tmp_path, config="all_stages"))
    pair.run("whole", 1)
    pair.run("two", 2)
    assert_same_run(pair.trainer, "whole", "two")
    assert {record["stage"] for record in pair.trainer.read("two", "metrics.jsonl")} == {0, 1, 2, 3, 4}
    assert json.loads((tmp_path / "two" / "config.json").read_text())["name"] == "e2e"
