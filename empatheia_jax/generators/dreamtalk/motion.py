"""Motion, the renderer's input: expression coefficients and head pose at 25 frames per second, and their files."""

from pathlib import Path

import numpy as np

from empatheia_jax.generators.dreamtalk.config import DreamTalkError

COEFFICIENTS = 257  # of Deep3DFaceRecon: identity 80, expression 64, texture 80, angles 3, light 27, translation 3
RADIUS = 13  # frames that the renderer sees on either side
EXPRESSION, ANGLES, TRANSLATION = slice(80, 144), slice(224, 227), slice(254, 257)
STILL_POSE = np.array([0, 0, 0, 0, 0, 0, 0.9370641, 126.84911, 129.03864], np.float32)  # a head at rest


def head_pose(coefficients: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Return head poses [n, 9] (angles, translation, crop) of coefficients [n, 257] and `Aligned.transform` [n, 5]."""
    return np.concatenate([coefficients[:, ANGLES], coefficients[:, TRANSLATION], transform[:, -3:]], axis=1)


def build_motion(expression: np.ndarray, pose: np.ndarray | None = None) -> np.ndarray:
    """Join expression and head pose.

    Args:
      expression: [F, 64].
      pose: head poses [n, 9]; the last one is repeated if n < F. Without them the head does not move.

    Returns:
      Motion float32 [F, 73].

    Raises:
      ValueError: a pose of no frames, or of another width.
    """
    frames = len(expression)
    if pose is None:
        poses = np.broadcast_to(STILL_POSE, (frames, len(STILL_POSE)))
    else:
        if pose.ndim != 2 or pose.shape[1] != len(STILL_POSE) or not len(pose):
            raise ValueError(f"a pose is [n, {len(STILL_POSE)}], n at least 1, not {list(pose.shape)}")
        poses = pose[np.minimum(np.arange(frames), len(pose) - 1)]
    return np.concatenate([expression, poses], axis=1).astype(np.float32)


def window_index(frames: int) -> np.ndarray:
    """Return the frame at every position of every frame's window, int32 [F, 27], repeating the first and the last."""
    index = np.arange(frames)[:, None] + np.arange(-RADIUS, RADIUS + 1)
    return np.clip(index, 0, frames - 1).astype(np.int32)


# Files ----------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DreamTalkError(f"{path}: there is no such file")
    from scipy.io.matlab import loadmat

    try:
        if path.suffix == ".mat":
            return loadmat(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # scipy, numpy, zipfile and zlib raise errors of any type for a damaged file
        raise DreamTalkError(f"{path}: not a .mat or .npz of coefficients ({_in_a_line(error)})") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _floats(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays.get(name, ()), np.float32)
    except (ValueError, TypeError) as error:  # text, or a structure of MATLAB
        raise DreamTalkError(f"{path}: `{name}` holds no numbers ({_in_a_line(error)})") from error


def _coefficients(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    coefficients = _floats(path, arrays, "coeff")
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
    transform = _floats(path, arrays, "transform_params")
    if transform.shape != (len(coefficients), 5) or not np.isfinite(transform).all():
        raise DreamTalkError(f"{path}: no `transform_params` [{len(coefficients)}, 5] beside its coefficients")
    return head_pose(coefficients, transform)
