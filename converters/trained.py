"""Whether numbers are those of a trained network: finite, no difference to another checkpoint, not left at zero.

The sure sign is in the norms. In a trained network at least some have scales around one; in delta weights (trained
minus base, which some licences asked for) all scales are around zero, and before training all are exactly one.
"""

import re
import sys
from pathlib import Path

import numpy as np

from converters.tensors import ConversionError

MAX_DELTA_SCALE = 0.25  # largest mean of a norm's scale in delta weights; a trained network's last norm is above it
MAX_SHOWN = 10  # tensors that an error lists
_CHUNK_BYTES = 1 << 24  # of an array that is looked at together
_MAY_BE_ZERO = re.compile(
    r"(.*_)?bias|running_mean|lora_b"
)  # last word of an array's name: what training may leave at 0
_DELTA_NAME = re.compile(r"(^|[^a-z])(delta|xor)s?([^a-z]|$)", re.IGNORECASE)
_LAYER = re.compile(r"/\d+$")


class TrainedCheck:
    """Collects what the arrays of one checkpoint, or of one adapter, show; `finish` judges it."""

    def __init__(self, place: Path | str, names: tuple[object, ...] = ()):
        """Begin a checkpoint.

        Args:
          place: where it is, for errors.
          names: what it is called: its folder, config.json's `_name_or_path`.
        """
        self._place, self._names = place, [str(name) for name in names if name]
        self._zero: list[str] = []
        self._not_finite: list[str] = []
        self._scale_means: list[float] = []
        self._initial_scales: dict[str, bool] = {}  # by module: whether all are as before training
        self._initial_biases: dict[str, bool] = {}
        self._adapter_is_zero: list[bool] = []

    def add(self, name: str, array: np.ndarray, label: str = "") -> None:
        """Look at one array: all of it for numbers that are not finite, its beginning for zeros.

        Args:
          name: our name on disk: "layers/attention_norm/scale/7".
          array: [...].
          label: its name in the checkpoint, for errors, where that is another.
        """
        module, _, leaf = _LAYER.sub("", name).rpartition("/")
        is_zero = bool(array.size) and not (array.ndim and array[:1].any()) and not array.any()
        if is_zero and not _MAY_BE_ZERO.fullmatch(leaf):
            self._zero.append(label or name)
        if not _is_finite(array):
            self._not_finite.append(label or name)
        if leaf == "lora_b":
            self._adapter_is_zero.append(is_zero)
        if leaf == "scale" or leaf.endswith("norm"):
            scale = np.asarray(array, np.float32)
            with np.errstate(all="ignore"):  # what is not finite has been noted
                self._scale_means.append(float(scale.mean()))
            self._initial_scales[module] = self._initial_scales.get(module, True) and bool((scale == 1).all())
        if leaf == "bias":
            self._initial_biases[module] = self._initial_biases.get(module, True) and is_zero

    def finish(self) -> list[str]:
        """Judge the checkpoint and return what is worth a warning, for `warn`.

        Raises:
          ConversionError: delta weights, tensors that are zero and must not be, or numbers that are not finite.
        """
        if self._not_finite:
            raise ConversionError(
                f"{self._place}: infinite or not a number, which no trained network is: "
                f"{_list_shown(self._not_finite)}: a damaged file, or training that diverged"
            )
        problems, notes = [], []
        largest = max(map(abs, self._scale_means), default=1.0)
        names = [name for name in self._names if _DELTA_NAME.search(name)]
        if largest < MAX_DELTA_SCALE:
            problems.append(
                f"these are delta weights{f' ({names[0]})' if names else ''}: the scales of all "
                f"{len(self._scale_means)} norms are around zero (largest mean {largest:.2g}), a network's are around "
                "one; add them to the base that they belong to (FastChat's apply_delta does so for Vicuna), and "
                "convert the sum"
            )
        elif names:
            notes.append(f"called {names[0]}, but its norms are those of whole weights and not of delta weights")
        if self._zero:
            problems.append(
                f"all zero, which no trained network is: {_list_shown(self._zero)}: an unfinished download or a "
                "damaged file"
            )
        if problems:
            raise ConversionError(f"{self._place}: " + "; ".join(problems))
        norms = self._initial_scales
        if norms and all(norms[module] and self._initial_biases.get(module, True) for module in norms):
            notes.append("it looks untrained: all norms have the scale 1 and the bias 0 that they begin with")
        if self._adapter_is_zero and all(self._adapter_is_zero):
            notes.append("its LoRA B are all zero, as before training: the adapter changes nothing")
        return notes


def _list_shown(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"{', '.join(names[:MAX_SHOWN])}{more}"


def _is_finite(array: np.ndarray) -> bool:
    """Tell whether all numbers are finite, without a copy as large as the array."""
    if array.ndim == 0 or array.nbytes <= _CHUNK_BYTES:
        return bool(np.isfinite(array).all())
    rows = max(1, _CHUNK_BYTES * len(array) // array.nbytes)
    return all(np.isfinite(array[start : start + rows]).all() for start in range(0, len(array), rows))


def warn(place: Path | str, notes: list[str]) -> None:
    """Print notes in one line on stderr, if there are any."""
    if notes:
        print(f"warning: {place}: {'; '.join(notes)}", file=sys.stderr, flush=True)
