"""Programs that tests run as processes of their own, and what runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent
ROOT = PROGRAMS.parents[2]
PYTHONPATH = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "tests", ROOT / "benchmarks"))


def read_hlo(name: str) -> str:
    """Read the text of a compiled program in `support/hlo`: what libtpu, a GPU or XLA on the CPU writes."""
    return (PROGRAMS.parent / "hlo" / f"{name}.txt").read_text()


def program_environment(devices: int | None = None, **variables: str) -> dict[str, str]:
    """Return the environment of a program that imports this project and `support`, on the CPU.

    Args:
      devices: number of simulated devices; None: as in this process.
      **variables: other variables.
    """
    flags = {} if devices is None else {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": PYTHONPATH} | flags | variables


def start_program(name: str, *arguments, devices: int | None = None, **variables: str) -> subprocess.Popen:
    """Start a program of this folder.

    Args:
      name: file name without ".py".
      *arguments: its arguments.
      devices: number of simulated devices; None: as in this process.
      **variables: environment variables.
    """
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
        env=program_environment(devices, **variables),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_program(name: str, *arguments, devices: int | None = None, timeout: float = 600, **variables: str) -> str:
    """Run a program of this folder, which must end well, and return what it prints.

    Args:
      name: file name without ".py".
      *arguments: its arguments.
      devices: number of simulated devices; None: as in this process.
      timeout: seconds it may take.
      **variables: environment variables.
    """
    process = start_program(name, *arguments, devices=devices, **variables)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return out


def program_result(name: str, *arguments, devices: int | None = None, timeout: float = 600, **variables: str):
    """Run a program as `run_program` does and return the JSON value that its last line is (Gloo prints lines too)."""
    return json.loads(run_program(name, *arguments, devices=devices, timeout=timeout, **variables).splitlines()[-1])
