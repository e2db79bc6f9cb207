"""What a run leaves behind to be looked at: metrics.jsonl, examples.jsonl, TensorBoard events, one line a log."""

import json
import sys
from pathlib import Path

import numpy as np

from empatheia_jax.atomic import replacing


def _summary_writer():
    """tensorboardX's, without the torch that it imports where there is one: training is free of it."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # its import fails, as where torch is not installed
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class NoMetrics:
    """`Metrics` of a process that leaves the writing to another."""

    def log(self, step: int, stage: int, values: dict[str, float]) -> None:
        """Nothing."""

    def examples(self, step: int, stage: int, ids: list[str]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Metrics:
    """Writers of one run; on resume the files are cut back to the checkpoint's step, so no step is there twice."""

    def __init__(self, folder: Path, resume_step: int | None):
        """`resume_step` None is a new run; 0 a resumed one without a checkpoint."""
        self._files = {}
        for name in ("metrics.jsonl", "examples.jsonl"):
            path = folder / name
            if resume_step is not None and path.exists():
                cut_back(path, resume_step)
            self._files[name] = path.open("a", buffering=1)
        self._events = _summary_writer()(str(folder / "events"), purge_step=resume_step)

    def log(self, step: int, stage: int, values: dict[str, float]) -> None:
        """One object a logged step."""
        self._files["metrics.jsonl"].write(json.dumps({"step": step, "stage": stage, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"stage{stage}/{name}", value, step)

    def examples(self, step: int, stage: int, ids: list[str]) -> None:
        """The Examples that a step learned from."""
        self._files["examples.jsonl"].write(json.dumps({"step": step, "stage": stage, "examples": ids}) + "\n")

    def close(self) -> None:
        """Flush and close."""
        for file in self._files.values():
            file.close()
        self._events.close()


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, and a last line that was only half written."""
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


def finite(values: dict[str, np.ndarray], step: int) -> dict[str, float]:
    """Metrics as floats.

    Raises:
      FloatingPointError: when the loss or the gradient is not finite; names the step.
    """
    numbers = {name: float(value) for name, value in values.items()}
    if not (np.isfinite(numbers["loss"]) and np.isfinite(numbers["grad_norm"])):
        raise FloatingPointError(f"step {step}: loss {numbers['loss']}, gradient norm {numbers['grad_norm']}")
    return numbers
