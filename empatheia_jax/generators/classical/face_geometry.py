"""Plain geometry of a face video: how high the brows are, how the mouth bends.

Nothing in this module is fitted, and all it knows of the drawing is roughly where eyes and mouth are, so that tests and
evaluation can check styles and their measurement (`face_measure`) against something independent. Thin dark lines
(brows, lashes, the line between the lips) are what a vertical morphological closing of the grey picture fills.
"""

import cv2
import numpy as np

from empatheia_jax.generators.classical.drawing import to_picture
from empatheia_jax.generators.classical.face_measure import sample_frames

SIDE = 128
_BROW_TOP, _EYE_ROWS, _LID = 0.302, (0.425, 0.495), 0.025  # head coordinates; no brow comes closer to its pupil
_EYE_COLUMNS = ((0.375, 0.425), (0.575, 0.625))
_MOUTH_ROWS, _MOUTH_COLUMNS = (0.59, 0.735), (0.425, 0.575)


def measure_brow_height(frames: np.ndarray) -> float:
    """Return how far the brows are above the eyes: median over frames, share of the picture's height.

    Args:
      frames: uint8 [F, h, w, 3] RGB, framed as this package's face is.

    Raises:
      ValueError: no frames, or not RGB.
    """
    heights = []
    for frame in sample_frames(frames, side=SIDE):
        lines, sides = _thin_dark_lines(frame, 11) ** 2, []
        for left, right in _EYE_COLUMNS:
            eye = _to_pixel(_EYE_ROWS[0], 1) + _mean_row(_crop(_darkness(frame), _EYE_ROWS, (left, right)))
            outer = (left - 0.03, left + 0.04) if left < 0.5 else (right - 0.04, right + 0.03)
            top, bottom = _to_pixel(_BROW_TOP, 1), int(eye - _LID * SIDE)
            brow = top + _highest_peak(lines[top:bottom, _to_pixel(outer[0], 0) : _to_pixel(outer[1], 0)].sum(axis=1))
            sides.append(eye - brow)
        heights.append(np.mean(sides) / SIDE)
    return float(np.median(heights))


def measure_mouth_curve(frames: np.ndarray) -> float:
    """Return how far the corners of the mouth are above its middle (negative: below), share of the picture's height.

    A parabola is fitted to the line between the lips; median over frames.

    Args:
      frames: uint8 [F, h, w, 3] RGB, framed as this package's face is.

    Raises:
      ValueError: no frames, or not RGB.
    """
    curves = []
    for frame in sample_frames(frames, side=SIDE):
        weight = _crop(_thin_dark_lines(frame, 9), _MOUTH_ROWS, _MOUTH_COLUMNS) ** 2
        rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]].astype(np.float64)
        u = columns / (weight.shape[1] - 1) * 2 - 1
        # a small weight everywhere keeps the fit of a frame without any lip line finite: a straight line in the middle
        weight = weight + 1e-6 * weight.max() + 1e-9
        design = np.stack([np.ones(weight.size), u.ravel(), u.ravel() ** 2], axis=1)
        weighted = design * weight.ravel()[:, None]
        fit = np.linalg.solve(weighted.T @ design + 1e-9 * np.eye(3), weighted.T @ rows.ravel())
        curves.append(-fit[2] / SIDE)
    return float(np.median(curves))


def _thin_dark_lines(frame: np.ndarray, reach: int) -> np.ndarray:
    """Return how much darker each pixel is than its surroundings above and below: float [SIDE, SIDE], 0..1."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    filled = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, np.ones((reach, 1), np.uint8))
    depth = (filled.astype(np.float64) - grey) / np.maximum(filled, 20)
    return np.maximum(depth - 0.08, 0)


def _to_pixel(value: float, axis: int) -> int:
    point = np.array([0.5, 0.5])
    point[axis] = value
    return int(round(to_picture(point)[axis] * SIDE))


def _crop(picture: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> np.ndarray:
    top, bottom = (_to_pixel(row, 1) for row in rows)
    left, right = (_to_pixel(column, 0) for column in columns)
    return picture[top:bottom, left:right]


def _darkness(frame: np.ndarray) -> np.ndarray:
    """Return how much darker each pixel is than half a cheek: float [SIDE, SIDE]; pupils and little else are."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)
    skin = np.median(_crop(grey, (0.51, 0.55), (0.40, 0.60)))
    return np.maximum(0.5 * skin - grey, 0) ** 2


def _mean_row(weight: np.ndarray) -> float:
    profile = weight.sum(axis=1) + 1e-9
    return float((np.arange(len(profile)) * profile).sum() / profile.sum())


def _highest_peak(profile: np.ndarray) -> float:
    """Return the centre of the first peak from the top that is not faint beside the largest, in rows."""
    rise = np.concatenate([[0.0], profile, [0.0]])
    peaks = np.nonzero((profile >= rise[:-2]) & (profile >= rise[2:]) & (profile > 0.35 * profile.max()))[0]
    peak = int(peaks[0]) if len(peaks) else len(profile) // 2
    near = slice(max(0, peak - 2), peak + 3)
    weight = profile[near] + 1e-9
    return float((np.arange(len(profile))[near] * weight).sum() / weight.sum())
