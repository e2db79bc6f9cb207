"""Motion, the renderer's input: expression coefficients and head pose at 25 frames per second."""

import numpy as np

RADIUS = 13  # frames that the renderer sees on either side
EXPRESSION = slice(80, 144)  # of Deep3DFaceRecon's 257 coefficients: identity 80, expression 64, texture 80,
ANGLES, TRANSLATION = slice(224, 227), slice(254, 257)  # angles 3, light 27, translation 3
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
