"""A face in a picture -> the square around it that the renderer draws (DreamTalk's rule for portraits)."""

import cv2
import numpy as np

UP, MARGIN = 0.1, 0.4  # of the face's height; of each side's length


def crop_box(face: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of a face in a picture -> box of the portrait.

    It may end beyond the right or the bottom edge: the picture is cut there, and stretched to a square.
    """
    left, top, right, bottom = face
    shift = UP * (bottom - top)
    top, bottom = max(0.0, top - shift), min(float(height), bottom - shift)
    across, down = right - left, bottom - top
    side = (1 + 2 * MARGIN) * max(across, down)
    wider, taller = (max(MARGIN * length, (side - length) / 2) for length in (across, down))
    grown = [int(left - wider), int(top - taller), int(right + wider), int(bottom + taller)]
    over = max(0, -grown[0], -grown[1], right - width)
    return grown[0] + over, grown[1] + over, grown[2] - over, grown[3] - over


def portrait(picture: np.ndarray, face: tuple[int, int, int, int], size: int = 256) -> np.ndarray:
    """Picture uint8 [h, w, 3] and the box of a face in it -> portrait uint8 [size, size, 3]."""
    left, top, right, bottom = crop_box(face, *picture.shape[:2])
    return cv2.resize(picture[top:bottom, left:right], (size, size), interpolation=cv2.INTER_LINEAR)
