"""The face encoder without weights: edges and colours of face crops.

`ClassicalVideo`: histograms of oriented gradients (Dalal and Triggs, 2005) and a colour grid of the face in Nv frames,
scaled to order 1 by constants that were chosen once for faces in general; nothing is fitted to data.

Faces are detected with OpenCV's Haar cascade on one frame of a clip (it ships with OpenCV; no weights to download). The
red channel is searched first: skin of every tone is bright in it, so dark faces are detected as well as light ones (in
grey the cascade misses two thirds of the sample corpus's dark-skinned elderly avatars). A frame without a detection is
searched again with its local contrast equalised and a finer step.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from empatheia_jax.encoders.contract import evenly_spaced, validate_video

CROP = 72  # side of a crop in pixels
CELLS = 9  # cells along a side
ORIENTATIONS = 8
COLOUR_GRID = 6

MARGIN = 0.2  # the crop reaches this share of the box's side beyond it
SEARCH_SIZE = 128  # frames are searched at this size: the cascade needs no more and its cost grows with the area
MIN_SHARE = 0.3  # a face is at least this share of the frame's shorter side


@dataclasses.dataclass
class ClassicalVideo:
    """The face encoder without weights: float32 [frames, 756], edges and colours of evenly spaced frames.

    Dimensions: 0..647 histograms of 8 unsigned gradient orientations in 9 x 9 cells of the 72 px face crop
    (normalised over neighbouring cells: Dalal and Triggs, 2005); 648..755 mean Y, Cr, Cb of a 6 x 6 grid.
    """

    frames: int = 8
    name: str = "classical_video"
    modality: Literal["video"] = "video"
    sample_rate: int = 0
    on_device: bool = False
    network: None = None
    faces_missed: int = 0  # clips without a detected face since this object was made

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.frames, CELLS * CELLS * ORIENTATIONS + 3 * COLOUR_GRID**2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.frames, CROP, CROP, 3

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape), "crop": CROP}

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Crop the face of video uint8 [F, h, w, 3] RGB: return uint8 [frames, 72, 72, 3], evenly spaced frames.

        A clip in which no face is found is used uncropped and counted in `faces_missed`.

        Raises:
          EncoderError: `media` is not a non-empty uint8 RGB video.
        """
        media = validate_video(media)
        crops, has_face = crop_faces(media[evenly_spaced(len(media), self.frames)], CROP)
        self.faces_missed += not has_face
        return crops

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode face crops uint8 [..., frames, 72, 72, 3]: return features float32 [..., frames, 756] of order 1."""
        crops = np.asarray(batch)
        flat = crops.reshape(-1, CROP, CROP, 3)
        features = np.concatenate([oriented_gradients(flat), colour_grid(flat)], axis=1)
        return features.reshape(*crops.shape[:-3], -1)


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


def oriented_gradients(crops: np.ndarray) -> np.ndarray:
    """Return the scaled HOG float32 [F, 648], order (row, column, orientation), of crops uint8 RGB [F, 72, 72, 3]."""
    grey = np.sqrt(
        crops @ np.array([0.299, 0.587, 0.114], np.float32) / 255.0
    )  # the square root reduces differences of illumination
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength = np.hypot(across, down)
    angle = (np.arctan2(down, across) % np.pi) * (ORIENTATIONS / np.pi)
    lower = np.floor(angle)
    share = angle - lower
    lower = lower.astype(np.int32) % ORIENTATIONS
    bins = np.empty((len(crops), CELLS, CELLS, ORIENTATIONS), np.float32)
    for index in range(ORIENTATIONS):  # each gradient votes for its two nearest orientations
        votes = strength * (
            np.where(lower == index, 1.0 - share, 0.0) + np.where(lower == (index - 1) % ORIENTATIONS, share, 0.0)
        )
        bins[..., index] = _cell_means(votes)
    return ((_normalise(bins) - 0.08) / 0.11).reshape(len(crops), -1)


def colour_grid(crops: np.ndarray) -> np.ndarray:
    """Return scaled mean Y, Cr, Cb of 6 x 6 cells, float32 [F, 108], of crops uint8 RGB [F, 72, 72, 3]."""
    cell = CROP // COLOUR_GRID
    mean = crops.reshape(len(crops), COLOUR_GRID, cell, COLOUR_GRID, cell, 3).mean(axis=(2, 4), dtype=np.float32)
    luma = mean @ np.array([0.299, 0.587, 0.114], np.float32)
    red, blue = (mean[..., 0] - luma) * 0.713, (mean[..., 2] - luma) * 0.564
    return np.stack([(luma - 128.0) / 64.0, (red - 10.0) / 20.0, blue / 20.0], axis=-1).reshape(len(crops), -1)


@functools.cache
def _cascade():
    import cv2
    from cv2.data import haarcascades

    cascade = cv2.CascadeClassifier(str(Path(haarcascades) / "haarcascade_frontalface_alt2.xml"))
    if cascade.empty():
        raise OSError("OpenCV's haarcascade_frontalface_alt2.xml cannot be read: install opencv-python-headless<5")
    return cascade


def _cell_means(image: np.ndarray) -> np.ndarray:
    return image.reshape(len(image), CELLS, CROP // CELLS, CELLS, CROP // CELLS).mean(axis=(2, 4))


def _normalise(bins: np.ndarray) -> np.ndarray:
    """Return each cell divided by the norms of the four 2 x 2 blocks it belongs to, clipped at 0.4 and averaged."""
    energy = np.pad(np.square(bins).sum(axis=-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    block = energy[:, :-1, :-1] + energy[:, :-1, 1:] + energy[:, 1:, :-1] + energy[:, 1:, 1:]
    norm = np.sqrt(block + 1e-4)
    total = np.zeros_like(bins)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += np.minimum(bins / norm[:, row : row + CELLS, column : column + CELLS, None], 0.4)
    return total / 4.0
