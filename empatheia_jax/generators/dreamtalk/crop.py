"""Crop a picture to the square portrait around a face, by DreamTalk's rule."""

import cv2
import numpy as np

SHIFT_UP, MARGIN = 0.1, 0.4  # as shares of the face's height and of each side's length


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
