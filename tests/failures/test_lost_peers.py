"""When one of two processes is killed or hangs, the other ends within the heartbeat, with one line and code 75."""

import signal
import time

import numpy as np
import pytest

HEARTBEAT, SLACK = 10, 20  # seconds; the slack is for a busy machine


@pytest.mark.slow  # tests/multiprocess has a test of a killed process in `make test`
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_ends_with_75(pair, seed, number, victim):
    name = f"{signal.Signals(number).name}-{victim}"
    started = pair.start(name, 2, "--heartbeat", str(HEARTBEAT))
    pair.wait_for(name, int(np.random.default_rng([seed, victim]).integers(1, 30)), started)
    started[victim].send_signal(number)
    began = time.monotonic()
    code, _, err = pair.trainer.finish(started[1 - victim])
    assert time.monotonic() - began < HEARTBEAT + SLACK
    started[victim].kill()
    started[victim].communicate()
    assert code == 75, err[-3000:]
    lines = [line for line in err.splitlines() if line.startswith("train.py:")]
    assert len(lines) == 1 and "lost another process" in lines[0] and "--resume" in lines[0]
    assert "Traceback" not in err
