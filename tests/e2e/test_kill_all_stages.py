"""Ten SIGKILLs over all five stages: after --resume the run equals one that was never killed."""

import random

import pytest

from support.trainer import Trainer

KILLS = 10


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path, seed):
    trainer = Trainer(tmp_path, config="all_stages")
    trainer.run("uninterrupted")
    records = trainer.read("uninterrupted", "examples.jsonl")
    stages = sorted({record["stage"] for record in records})
    assert stages == [0, 1, 2, 3, 4]
    rng = random.Random(seed)
    by_stage = {stage: [r["step"] for r in records if r["stage"] == stage] for stage in stages}
    steps = [step for stage in stages for step in sorted(rng.sample(by_stage[stage], KILLS // len(stages)))]
    killed = 0
    for number, step in enumerate(steps):
        killed += trainer.kill_at("killed", step, *(["--resume"] if number else []))
    # A kill before the very first checkpoint leaves a folder that --resume starts again from the beginning.
    trainer.run("killed", "--resume")
    assert killed >= KILLS - 1  # a kill meant for the last step may come after the end
    trainer.assert_equal("uninterrupted", "killed")
