"""A face in a frame -> the 224 x 224 picture that `face3d` reads, and where it was (as Deep3DFaceRecon does)."""

import dataclasses

import numpy as np
from PIL import Image

SIZE = 224
SCALE = 102.0  # pixels that one unit of the standard face gets
STANDARD_FACE = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ]
)
"""Eye centres, nose tip and mouth corners of the mean face, x right, y up, z to the viewer."""


@dataclasses.dataclass(frozen=True)
class Aligned:
    """A face cut out for `face3d`."""

    image: np.ndarray  # uint8 [224, 224, 3]
    transform: np.ndarray  # float32 [5]: width, height, scale, x, y of the frame
    points: np.ndarray  # float32 [5, 2] in the picture, y up


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """68 landmarks [68, 2] (iBUG's order) -> eye centres, nose tip, mouth corners [5, 2]."""
    eyes = [landmarks[[36, 39]].mean(axis=0), landmarks[[42, 45]].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def fallback_points(width: int, height: int) -> np.ndarray:
    """Where the five points would be if a standard face filled the frame [5, 2], y up: for frames without a face."""
    return (STANDARD_FACE[:, :2] + 1) / 2 * np.array([width, height])


def pose_of_points(points: np.ndarray) -> tuple[np.ndarray, float]:
    """(translation [2], scale) of the standard face under `points` [5, 2], y up, by least squares."""
    system = np.concatenate([STANDARD_FACE, np.ones((5, 1))], axis=1)
    x, y = np.linalg.lstsq(system, points, rcond=None)[0].T
    scale = (np.linalg.norm(x[:3]) + np.linalg.norm(y[:3])) / 2
    return np.array([x[3], y[3]]), float(scale)


def align(frame: np.ndarray, points: np.ndarray) -> Aligned:
    """Cut a face out.

    Args:
      frame: uint8 [h, w, 3] RGB. points: float [5, 2] in pixels, y up (h - 1 - y of the usual).
    Raises:
      ValueError: points that are not five, not finite, or all in one place.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        raise ValueError("a face is aligned by five points: eye centres, nose tip, mouth corners, in pixels")
    height, width = frame.shape[:2]
    moved, scale = pose_of_points(points)
    scale = SCALE / scale
    size = np.array([int(width * scale), int(height * scale)])
    middle = np.array([width, height]) / 2
    left = int(size[0] / 2 - SIZE / 2 + (moved[0] - middle[0]) * scale)
    top = int(size[1] / 2 - SIZE / 2 + (middle[1] - moved[1]) * scale)
    picture = Image.fromarray(frame).resize(tuple(int(n) for n in size), Image.Resampling.BICUBIC)
    picture = picture.crop((left, top, left + SIZE, top + SIZE))
    inside = (points - moved + middle) * scale - (size / 2 - SIZE / 2)
    transform = np.array([width, height, scale, *moved], np.float32)
    return Aligned(np.asarray(picture), transform, inside.astype(np.float32))
