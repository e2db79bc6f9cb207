"""Faces cut out of pictures: aligned to the 224 x 224 that `face3d` reads, or cropped to the portrait to render."""

import dataclasses

import cv2
import numpy as np
from PIL import Image

SIZE = 224
SCALE = 102.0  # pixels per unit of the standard face
STANDARD_FACE = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ]
)
"""Eye centres, nose tip and mouth corners of the mean face; x right, y up, z towards the viewer."""
SHIFT_UP, MARGIN = 0.1, 0.4  # of a crop, as shares of the face's height and of each side's length


# Aligned for the regressor, as in Deep3DFaceRecon ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Aligned:
    """A face cropped and scaled for `face3d`."""

    image: np.ndarray  # uint8 [224, 224, 3]
    transform: np.ndarray  # float32 [5]: the frame's width and height, the face's scale and x, y in the frame
    points: np.ndarray  # float32 [5, 2] in the image, y up


def points_from_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Return eye centres, nose tip and mouth corners [5, 2] of 68 landmarks [68, 2] in iBUG's order."""
    eyes = [landmarks[[36, 39]].mean(axis=0), landmarks[[42, 45]].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def fallback_points(width: int, height: int) -> np.ndarray:
    """Return the five points [5, 2], y up, of a standard face that fills the frame: for frames without a face."""
    return (STANDARD_FACE[:, :2] + 1) / 2 * np.array([width, height])


def fit_pose(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit translation [2] and scale of the standard face to `points` [5, 2], y up, by least squares."""
    system = np.concatenate([STANDARD_FACE, np.ones((5, 1))], axis=1)
    x, y = np.linalg.lstsq(system, points, rcond=None)[0].T
    scale = (np.linalg.norm(x[:3]) + np.linalg.norm(y[:3])) / 2
    return np.array([x[3], y[3]]), float(scale)


def align(frame: np.ndarray, points: np.ndarray) -> Aligned:
    """Crop and scale a face.

    Args:
      frame: uint8 [h, w, 3] RGB.
      points: eye centres, nose tip, mouth corners, float [5, 2] in pixels, y up (h - 1 - y of the usual coordinates).

    Raises:
      ValueError: points that are not five, not finite, or all in one place.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        raise ValueError("a face is aligned by five points: eye centres, nose tip, mouth corners, in pixels")
    height, width = frame.shape[:2]
    translation, scale = fit_pose(points)
    scale = SCALE / scale
    size = np.array([int(width * scale), int(height * scale)])
    middle = np.array([width, height]) / 2
    left = int(size[0] / 2 - SIZE / 2 + (translation[0] - middle[0]) * scale)
    top = int(size[1] / 2 - SIZE / 2 + (middle[1] - translation[1]) * scale)
    picture = Image.fromarray(frame).resize((int(size[0]), int(size[1])), Image.Resampling.BICUBIC)
    picture = picture.crop((left, top, left + SIZE, top + SIZE))
    inside = (points - translation + middle) * scale - (size / 2 - SIZE / 2)
    transform = np.array([width, height, scale, *translation], np.float32)
    return Aligned(np.asarray(picture), transform, inside.astype(np.float32))


# Cropped for the renderer, by DreamTalk's rule ------------------------------------------------------------------------


def crop_box(face: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of the portrait around a face.

    It may end beyond the right or the bottom edge; the picture is then cropped there and scaled to a square.

    Args:
      face: box (left, top, right, bottom) of the face.
      height: the picture's height.
      width: the picture's width.
    """
    left, top, right, bottom = face
    shift = SHIFT_UP * (bottom - top)
    top, bottom = max(0.0, top - shift), min(float(height), bottom - shift)
    face_width, face_height = right - left, bottom - top
    side = (1 + 2 * MARGIN) * max(face_width, face_height)
    margin_x, margin_y = (max(MARGIN * length, (side - length) / 2) for length in (face_width, face_height))
    box = [int(left - margin_x), int(top - margin_y), int(right + margin_x), int(bottom + margin_y)]
    excess = max(0, -box[0], -box[1], right - width)
    return box[0] + excess, box[1] + excess, box[2] - excess, box[3] - excess


def crop_face(picture: np.ndarray, face: tuple[int, int, int, int], size: int = 256) -> np.ndarray:
    """Return the portrait uint8 [size, size, 3] of the face with box `face` in a picture uint8 [h, w, 3]."""
    left, top, right, bottom = crop_box(face, *picture.shape[:2])
    return cv2.resize(picture[top:bottom, left:right], (size, size), interpolation=cv2.INTER_LINEAR)
