"""Files of 3DMM coefficients, style clips and head poses: .mat as DreamTalk publishes them, or .npz."""

from pathlib import Path

import numpy as np

from empatheia_jax.generators.dreamtalk.errors import DreamTalkError
from empatheia_jax.generators.dreamtalk.motion import EXPRESSION, head_pose

COEFFICIENTS, EXPRESSIONS = 257, 64


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DreamTalkError(f"{path}: there is no such file")
    from scipy.io.matlab import MatReadError, loadmat

    try:
        if path.suffix == ".mat":
            return loadmat(path)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, NotImplementedError, TypeError, MatReadError) as error:
        raise DreamTalkError(f"{path}: not a .mat or .npz of coefficients ({error})") from error


def _coefficients(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    coefficients = np.asarray(arrays.get("coeff", ()), np.float32)
    if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS or not len(coefficients):
        raise DreamTalkError(f"{path}: no `coeff` [n, {COEFFICIENTS}] of at least one frame in it")
    if not np.isfinite(coefficients).all():
        raise DreamTalkError(f"{path}: coefficients that are not numbers")
    return coefficients


def read_expression(path: Path) -> np.ndarray:
    """Read the expression coefficients float32 [n, 64] of a clip.

    Raises:
      DreamTalkError: no such file, or no coefficients in it.
    """
    return _coefficients(path, _read(path))[:, EXPRESSION]


def read_pose(path: Path) -> np.ndarray:
    """Read the head poses float32 [n, 9] of a clip: angles, translation, crop.

    Raises:
      DreamTalkError: no such file, no coefficients, or no `transform_params` for each frame.
    """
    arrays = _read(path)
    coefficients = _coefficients(path, arrays)
    transform = np.asarray(arrays.get("transform_params", ()), np.float32)
    if transform.shape != (len(coefficients), 5) or not np.isfinite(transform).all():
        raise DreamTalkError(f"{path}: no `transform_params` [{len(coefficients)}, 5] beside its coefficients")
    return head_pose(coefficients, transform)
