"""Between the networks: expression and head pose -> what the renderer reads (3DMM coefficients, 25 frames a second)."""

import numpy as np

RADIUS = 13  # frames on either side that the renderer sees
EXPRESSION = slice(80, 144)  # of the 257 coefficients of Deep3DFaceRecon: identity 80, expression 64, texture 80,
ANGLES, TRANSLATION = slice(224, 227), slice(254, 257)  # angles 3, light 27, translation 3
STILL = np.array([0, 0, 0, 0, 0, 0, 0.9370641, 126.84911, 129.03864], np.float32)  # a head that does not move


def pose_of(coefficients: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Coefficients [n, 257] and alignment [n, 5] (W, H, s, tx, ty) -> pose [n, 9]: angles, translation, crop."""
    return np.concatenate([coefficients[:, ANGLES], coefficients[:, TRANSLATION], transform[:, -3:]], axis=1)


def motion_of(expression: np.ndarray, pose: np.ndarray | None = None) -> np.ndarray:
    """Expression [F, 64] and pose [n, 9] -> motion float32 [F, 73]; a shorter pose holds its last.

    Without a pose the head does not move.

    Raises:
      ValueError: a pose of no frames, or of another width.
    """
    frames = len(expression)
    if pose is None:
        held = np.broadcast_to(STILL, (frames, len(STILL)))
    else:
        if pose.ndim != 2 or pose.shape[1] != len(STILL) or not len(pose):
            raise ValueError(f"a pose is [n, {len(STILL)}], n at least 1, not {list(pose.shape)}")
        held = pose[np.minimum(np.arange(frames), len(pose) - 1)]
    return np.concatenate([expression, held], axis=1).astype(np.float32)


def window_index(frames: int) -> np.ndarray:
    """Frames behind every slot of every frame's window, int32 [F, 27]; at the ends the outermost stand again."""
    index = np.arange(frames)[:, None] + np.arange(-RADIUS, RADIUS + 1)
    return np.clip(index, 0, frames - 1).astype(np.int32)
