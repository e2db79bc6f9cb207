"""The watchdog ends a run that hangs, with code 75 and the stacks; parts that may take long are not ended."""

import pytest

from support.programs import start_program


def run(part: str, seconds: str, moving: str = "still") -> tuple[int, str, str]:
    """Return exit code, stdout and stderr."""
    process = start_program("hang", part, seconds, moving)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("part", ["steps", "wait"])
def test_what_hangs_is_ended_and_said(part):
    code, _, err = run(part, "0.5")
    assert code == 75
    assert "wait_for_ever" in err  # where it hung
    line = err.splitlines()[-1]
    assert line.startswith("train.py: nothing has moved for ") and f"(in {part!r})" in line and "--resume" in line


@pytest.mark.parametrize("part, seconds, moving", [("compile", "0.5", "still"), ("steps", "0.5", "moving")])
def test_what_moves_or_may_take_long_goes_on(part, seconds, moving):
    assert run(part, seconds, moving) == (0, "done\n", "")
