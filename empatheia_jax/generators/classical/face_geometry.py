"""Plain geometry of a face video: how high the brows are, how the mouth bends.

Nothing here is fitted or knows how the face is drawn beyond where eyes and mouth roughly are, so that tests and
evaluation can check styles and their measurement (`face_measure`) against something independent. Thin dark things
(brows, lashes, the line of the lips) are found as what a vertical closing of the grey picture fills.
"""

import cv2
import numpy as np

from empatheia_jax.generators.classical.drawing import framed
from empatheia_jax.generators.classical.face_measure import work_frames

SIDE = 128
_BROW_ROWS, _EYE_ROWS = (0.305, 0.425), (0.425, 0.50)  # head coordinates
_BROW_COLUMNS = ((0.355, 0.45), (0.55, 0.645))
_MOUTH_ROWS, _MOUTH_COLUMNS = (0.59, 0.735), (0.425, 0.575)


def measure_brow_height(frames: np.ndarray) -> float:
    """How far the brows are above the eyes: median over frames, share of the picture's height.

    Args:
      frames: uint8 [F, h, w, 3] RGB, framed as this package's face is.
    Raises:
      ValueError: no frames, or not RGB.
    """
    heights = []
    for frame in work_frames(frames, side=SIDE):
        lines = _thin_dark(frame, 11)
        sides = []
        for left, right in _BROW_COLUMNS:
            brow = _centre(_cut(lines, _BROW_ROWS, (left, right)).sum(axis=1))
            eye = _centre(_cut(lines, _EYE_ROWS, (left, right)).sum(axis=1))
            top = _pixel(_EYE_ROWS[0], 1) - _pixel(_BROW_ROWS[0], 1)
            sides.append(top + eye - brow)
        heights.append(np.mean(sides) / SIDE)
    return float(np.median(heights))


def measure_mouth_curve(frames: np.ndarray) -> float:
    """How far the corners of the mouth are above its middle (negative: below), share of the picture's height.

    A parabola is laid through the line of the lips; the third of the frames whose mouth is most closed counts.

    Args:
      frames: uint8 [F, h, w, 3] RGB, framed as this package's face is.
    Raises:
      ValueError: no frames, or not RGB.
    """
    curves, heights = [], []
    for frame in work_frames(frames, side=SIDE):
        weight = _cut(_thin_dark(frame, 9), _MOUTH_ROWS, _MOUTH_COLUMNS) ** 2
        rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]].astype(np.float64)
        u = columns / (weight.shape[1] - 1) * 2 - 1
        # the hold of a straight line in the middle keeps a frame without any lip line finite
        weight = weight + 1e-6 * weight.max() + 1e-9
        design = np.stack([np.ones(weight.size), u.ravel(), u.ravel() ** 2], axis=1)
        weighted = design * weight.ravel()[:, None]
        fit = np.linalg.solve(weighted.T @ design + 1e-9 * np.eye(3), weighted.T @ rows.ravel())
        residual = rows.ravel() - design @ fit
        curves.append(-fit[2] / SIDE)
        heights.append(np.sqrt((weight.ravel() * residual**2).sum() / weight.sum()))
    closed = np.argsort(heights)[: max(1, len(heights) // 3)]
    return float(np.median(np.array(curves)[closed]))


def _thin_dark(frame: np.ndarray, reach: int) -> np.ndarray:
    """How much darker than its surroundings above and below each pixel is: float [SIDE, SIDE], 0..1."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    filled = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, np.ones((reach, 1), np.uint8))
    depth = (filled.astype(np.float64) - grey) / np.maximum(filled, 20)
    return np.maximum(depth - 0.08, 0)


def _pixel(value: float, axis: int) -> int:
    point = np.array([0.5, 0.5])
    point[axis] = value
    return int(round(framed(point)[axis] * SIDE))


def _cut(picture: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> np.ndarray:
    top, bottom = (_pixel(row, 1) for row in rows)
    left, right = (_pixel(column, 0) for column in columns)
    return picture[top:bottom, left:right]


def _centre(profile: np.ndarray) -> float:
    """Centre of the highest peak of a profile, in samples."""
    peak = int(np.argmax(profile))
    near = slice(max(0, peak - 3), peak + 4)
    weight = profile[near] + 1e-9
    return float((np.arange(len(profile))[near] * weight).sum() / weight.sum())
