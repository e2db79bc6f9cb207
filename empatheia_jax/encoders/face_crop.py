"""Face detection with OpenCV's Haar cascade on one frame of a clip (it ships with OpenCV; no weights to download).

The red channel is searched first: skin of every tone is bright in it, so dark faces are detected as well as light ones
(in grey the cascade misses two thirds of the sample corpus's dark-skinned elderly avatars). A frame without a detection
is searched again with its local contrast equalised and a finer step.
"""

import functools
from pathlib import Path

import numpy as np

MARGIN = 0.2  # the crop reaches this share of the box's side beyond it
SEARCH_SIZE = 128  # frames are searched at this size: the cascade needs no more and its cost grows with the area
MIN_SHARE = 0.3  # a face is at least this share of the frame's shorter side


@functools.cache
def _cascade():
    import cv2

    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))
    if cascade.empty():
        raise OSError("OpenCV's haarcascade_frontalface_alt2.xml cannot be read: install opencv-python-headless<5")
    return cascade


def find_face(frame: np.ndarray) -> tuple[int, int, int] | None:
    """Return the largest face of a frame uint8 [h, w, 3] RGB as a square (top, left, side) in pixels, or None."""
    import cv2

    scale = min(1.0, SEARCH_SIZE / min(frame.shape[:2]))
    red = np.ascontiguousarray(frame[..., 0])
    if scale < 1.0:
        red = cv2.resize(red, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    min_side = max(20, int(MIN_SHARE * min(red.shape)))
    boxes = _cascade().detectMultiScale(red, scaleFactor=1.1, minNeighbors=4, minSize=(min_side, min_side))
    if len(boxes) == 0:
        equalised = cv2.createCLAHE(3.0, (4, 4)).apply(red)
        boxes = _cascade().detectMultiScale(equalised, scaleFactor=1.03, minNeighbors=3, minSize=(min_side, min_side))
    if len(boxes) == 0:
        return None
    left, top, side, _ = max(boxes, key=lambda box: box[2] * box[3])
    return int(top / scale), int(left / scale), int(side / scale)


def crop_faces(frames: np.ndarray, size: int) -> tuple[np.ndarray, bool]:
    """Crop the face of a clip and scale it to size x size.

    The face is detected on the middle frame and the same square is cut from all frames, so that the head's movement
    stays visible. Without a face the full frame is used.

    Args:
      frames: uint8 [F, h, w, 3] RGB.
      size: side of the result in pixels.
    Returns:
      Crops uint8 [F, size, size, 3], and whether a face was found.
    """
    import cv2

    height, width = frames.shape[1:3]
    box = find_face(frames[len(frames) // 2])
    if box is None:
        top, left, bottom, right = 0, 0, height, width
    else:
        pad = int(MARGIN * box[2])
        top, left = max(0, box[0] - pad), max(0, box[1] - pad)
        bottom, right = min(height, box[0] + box[2] + pad), min(width, box[1] + box[2] + pad)
    crops = [cv2.resize(frame[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(crops), box is not None
