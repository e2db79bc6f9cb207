"""Two processes under the supervisor, one killed every minute on average: no Example is lost.

Run with `make soak`; EMPATHEIA_SOAK_MINUTES (30) is how long the kills go on.
"""

import os
import signal
import time

import numpy as np
import pytest

from support.supervised import Supervised, assert_each_once
from support.trainer import DIALOGUES, Trainer

MINUTES = float(os.environ.get("EMPATHEIA_SOAK_MINUTES", "30"))
EVERY = 60.0  # seconds between kills, on average


@pytest.mark.soak
def test_kills_every_minute_lose_no_example(tmp_path, seed):
    epochs = str(int(6000 * MINUTES))  # stopped when the time is over
    flags = ("--stages.0.epochs", epochs, "--checkpoint-every", "1000000", "--checkpoint-seconds", "10")
    trainer, rng = Trainer(tmp_path, *flags), np.random.default_rng([seed, 50])
    run = Supervised(trainer, "soak", 2, restarts=20)  # kills may come faster than checkpoints for a while
    end, kills = time.monotonic() + 60 * MINUTES, 0
    while (pause := float(rng.exponential(EVERY))) < end - time.monotonic():
        time.sleep(pause)
        assert run.process.poll() is None, run.log.read_text()[-3000:]
        if children := run.children():
            os.kill(int(rng.choice(children)), signal.SIGKILL)
            kills += 1
    run.wait_for(run.step() + 1)  # trains again
    output = run.stop()
    ends = [line for line in output.splitlines() if "goodput" in line or "exit code 0" in line]
    print(f"{kills} kills, {run.step()} steps;", *ends)
    assert kills >= MINUTES / 4 and output.count("restart 1 of") > 0
    assert run.step() > 10
    learned = sum(len(record["examples"]) for record in trainer.read("soak", "examples.jsonl"))
    assert_each_once(trainer, "soak", epochs=learned // (2 * (DIALOGUES - round(0.2 * DIALOGUES))))
