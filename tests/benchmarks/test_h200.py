"""The script for a GPU runs every benchmark, continues after a step that fails, and runs end to end on a CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "h200.sh"


def run_script(out: Path, *arguments: str, timeout: int, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "OUT": str(out)} | environment,
    )


def read_steps() -> dict[str, str]:
    """Return step name -> script."""
    calls = re.findall(r"^.*\b(?:bench|training) (\w+) \d+ (\w+\.py)", SCRIPT.read_text(), re.MULTILINE)
    return dict(calls)


def test_every_benchmark_is_a_step():
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "measure.report(" in path.read_text()}
    scripts -= {"weak_scaling.py", "voices.py"}  # compiles for TPUs; judges sounds, not speed: neither needs a GPU
    assert len(scripts) >= 8 and scripts <= set(read_steps().values())


def test_limits_leave_room_for_the_first_steps_at_least():
    limits = [int(n) for n in re.findall(r"\b(?:bench|training) \w+ (\d+)", SCRIPT.read_text())]
    assert sum(limits[:9]) <= 1500  # up to respond with neural generators, should each of them use its full limit


def test_a_step_that_fails_or_hangs_is_said_and_the_next_one_runs(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\ncase "$1" in\n*train_step.py) echo broken >&2; exit 3;;\n*decode.py) sleep 60;;\n'
        '*speech.py) echo \'{"name": "sentence"}\';;\n-c) exit 1;;\nesac\n'
    )
    python.chmod(0o755)
    environment = {"PYTHON": str(python), "TOTAL": "6", "LEAST": "1", "ONLY": "train_7b decode_7b speech face"}
    completed = run_script(tmp_path, "--smoke", timeout=60, **environment)
    assert completed.returncode == 2 and "broken" in completed.stderr and '{"name": "sentence"}' not in completed.stdout
    summary = completed.stdout.split("failed\n")[1].splitlines()
    assert re.match(r"train_7b +FAILED .* \(3\)", summary[0])
    assert re.match(r"decode_7b +FAILED .*\(out of time\)", summary[1])
    assert [line.split()[1] for line in summary[2:]] == ["not", "not"]
    completed = run_script(tmp_path, "--smoke", timeout=60, PYTHON=str(python), ONLY="train_7b speech face")
    assert completed.returncode == 1 and '{"name": "sentence"}' in completed.stdout
    assert [line.split()[1] for line in completed.stdout.splitlines()[-3:]] == ["FAILED", "ok", "ok"]


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    pytest.importorskip("torch")
    completed = run_script(tmp_path, "--smoke", timeout=1800)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    finished = re.findall(r"^(\w+) +ok ", completed.stdout, re.MULTILINE)
    assert set(finished) == set(read_steps()) and not list(tmp_path.glob("*.jsonl"))
