"""The writers of a run's metrics.jsonl, examples.jsonl and TensorBoard events."""

import json
import sys
from pathlib import Path

import numpy as np

from empatheia_jax.runtime.atomic import replacing


def _summary_writer():
    """Import tensorboardX's `SummaryWriter` without the torch that it imports where it is installed.

    Training imports no torch, also where it is installed (`tests/training/test_run_files.py`).
    """
    blocked = "torch" not in sys.modules
    if blocked:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]: makes `import torch` fail, as where it is not installed
    try:
        from tensorboardX import SummaryWriter
    finally:
        if blocked:
            del sys.modules["torch"]
    return SummaryWriter


class NoMetrics:
    """A stand-in for `Metrics` in processes that write no metrics."""

    def log(self, step: int, stage: int, values: dict[str, float]) -> None:
        """Do nothing."""

    def log_examples(self, step: int, stage: int, ids: list[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Metrics:
    """The metrics files of one run; on resume they are cut back to the checkpoint's step, so no step is there twice."""

    def __init__(self, folder: Path, resume_step: int | None):
        """Open the files.

        Args:
          folder: the run's.
          resume_step: the checkpoint's step; 0: a resumed run without a checkpoint; None: a new run.
        """
        self._files = {}
        for name in ("metrics.jsonl", "examples.jsonl"):
            path = folder / name
            if resume_step is not None and path.exists():
                cut_back(path, resume_step)
            self._files[name] = path.open("a", buffering=1)
        self._events = _summary_writer()(str(folder / "events"), purge_step=resume_step)

    def log(self, step: int, stage: int, values: dict[str, float]) -> None:
        """Write one object to metrics.jsonl, and each value to TensorBoard."""
        self._files["metrics.jsonl"].write(json.dumps({"step": step, "stage": stage, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"stage{stage}/{name}", value, step)

    def log_examples(self, step: int, stage: int, ids: list[str]) -> None:
        """Write the ids of the Examples that a step learned from."""
        self._files["examples.jsonl"].write(json.dumps({"step": step, "stage": stage, "examples": ids}) + "\n")

    def close(self) -> None:
        """Flush and close the files."""
        for file in self._files.values():
            file.close()
        self._events.close()


def cut_back(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and a last line that was only half written."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] <= step:
            kept.append(line)
    with replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))


def check_finite(values: dict[str, np.ndarray], step: int) -> dict[str, float]:
    """Return metrics as floats.

    Raises:
      FloatingPointError: the loss or the gradient is not finite; the message names the step.
    """
    floats = {name: float(value) for name, value in values.items()}
    if not (np.isfinite(floats["loss"]) and np.isfinite(floats["grad_norm"])):
        raise FloatingPointError(f"step {step}: loss {floats['loss']}, gradient norm {floats['grad_norm']}")
    return floats
