"""The parametric face in somebody's colours: skin, hair and background taken from a portrait."""

import dataclasses
import functools
import io
from pathlib import Path

import cv2
import numpy as np
from cv2.data import haarcascades
from PIL import Image, ImageOps

from empatheia_jax.generators.classical.appearance import Appearance, Colour

SEARCH_SIDE = 480  # portraits are searched at this size
MAX_MEGABYTES = 50.0
_DIFFERENT = 16.0  # CIELAB distance from which a colour is another one
_ENOUGH = 0.06  # share of the patch above the face that must be neither skin nor background to be hair


class PortraitError(ValueError):
    """A portrait that cannot be used: says what is wrong and what to give instead."""


@dataclasses.dataclass(frozen=True)
class FaceBox:
    """The square around a face in a picture, pixels."""

    left: int
    top: int
    side: int


def read_portrait(path) -> np.ndarray:
    """Read a picture file: uint8 [h, w, 3] RGB, rotated as its EXIF data say; transparent parts become white.

    Raises:
      PortraitError: missing, too large, or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise PortraitError(f"{path}: there is no such picture")
    if path.stat().st_size > MAX_MEGABYTES * 1e6:
        raise PortraitError(f"{path}: larger than {MAX_MEGABYTES:g} MB; scale the picture down")
    try:
        # From memory: of a file, Pillow maps grey TIFFs into memory with the sides exchanged before it turns them.
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):  # grey of more than 8 bits
                image = Image.fromarray(_to_8_bits(np.asarray(image, np.float64), 65535 if "I" in image.mode else 0))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.array(image.convert("RGB"))
    except Exception as error:  # what Pillow raises on a damaged file depends on the format
        raise PortraitError(f"{path}: not a picture that can be read ({error}); give a png or jpg") from error


def _to_8_bits(grey: np.ndarray, top: float) -> np.ndarray:
    """Scale grey values 0..`top` to 0..255; values beyond `top`, or `top` 0, have no known scale: theirs is taken."""
    low, high = (0.0, top) if 0 <= grey.min() and grey.max() <= top else (grey.min(), grey.max())
    return np.round((grey - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def find_faces(image: np.ndarray) -> list[FaceBox]:
    """Return the faces in a picture uint8 [h, w, 3] RGB, by OpenCV's Haar cascade, largest first."""
    scale = SEARCH_SIDE / max(image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    boxes = _cascade().detectMultiScale(cv2.equalizeHist(grey), 1.08, 6, minSize=(SEARCH_SIDE // 10,) * 2)
    faces = [FaceBox(int(x / scale), int(y / scale), int(side / scale)) for x, y, side, _ in boxes]
    return sorted(faces, key=lambda face: (-face.side, face.left, face.top))


def select_largest(faces: list[FaceBox]) -> tuple[FaceBox, list[str]]:
    """Return the first face that `find_faces` returned (of at least one), and notes for the user on the others."""
    face = faces[0]
    if len(faces) == 1:
        return face, []
    return face, [f"{len(faces)} faces in the portrait: the largest was taken, at ({face.left}, {face.top})"]


def appearance_from_portrait(image: np.ndarray, default: Appearance | None = None) -> tuple[Appearance, list[str]]:
    """Return an appearance with the skin, hair and background colours of the (largest) face in a picture.

    Args:
      image: uint8 [h, w, 3] RGB.
      default: decides all the rest (age, gender, hair style, ...); None: `Appearance()`.

    Returns:
      The appearance, and notes for the user (which of several faces was taken, a colour that was not found).

    Raises:
      PortraitError: no face is found, or not a picture.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise PortraitError(f"a portrait must be uint8 [h, w, 3] RGB, not {image.dtype} {list(image.shape)}")
    default = default or Appearance()
    faces = find_faces(image)
    if not faces:
        raise PortraitError("no face found in the portrait; give a frontal, well lit face that is not too small")
    face, notes = select_largest(faces)
    skin = _skin(image, face)
    background = _background(image, face)
    hair = _hair(image, face, skin, background)
    if hair is None:
        notes.append("no hair colour found in the portrait: the avatar keeps its own")
    return dataclasses.replace(default, skin=skin, background=background, hair=hair or default.hair), notes


@functools.cache
def _cascade() -> cv2.CascadeClassifier:
    cascade = cv2.CascadeClassifier(str(Path(haarcascades) / "haarcascade_frontalface_default.xml"))
    if cascade.empty():
        raise PortraitError("OpenCV's face detector is missing: install opencv-python-headless>=4.11,<5")
    return cascade


def _patch(image: np.ndarray, face: FaceBox, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the pixels [n, 3] of a box (left, top, right, bottom) given in sides of the face."""
    left, top, right, bottom = box
    rows = np.clip([face.top + top * face.side, face.top + bottom * face.side], 0, image.shape[0]).astype(int)
    columns = np.clip([face.left + left * face.side, face.left + right * face.side], 0, image.shape[1]).astype(int)
    return image[rows[0] : rows[1], columns[0] : columns[1]].reshape(-1, 3)


def _skin(image: np.ndarray, face: FaceBox) -> Colour:
    """Return the median of the lit parts of cheeks and nose."""
    boxes = ((0.2, 0.52, 0.36, 0.66), (0.64, 0.52, 0.8, 0.66), (0.42, 0.42, 0.58, 0.6))
    pixels = np.concatenate([_patch(image, face, box) for box in boxes])
    light = pixels.sum(axis=1)
    lit_pixels = pixels[(light >= np.percentile(light, 35)) & (light <= np.percentile(light, 92))]
    return _colour(lit_pixels)


def _background(image: np.ndarray, face: FaceBox) -> Colour:
    """Return the median of the picture's left, right and upper rim, above the shoulders."""
    rim = max(2, min(image.shape[:2]) // 24)
    bottom = max(rim, min(image.shape[0], face.top + face.side // 2))
    sides = [image[:bottom, :rim], image[:bottom, -rim:], image[:rim]]
    return _colour(np.concatenate([side.reshape(-1, 3) for side in sides]))


def _hair(image: np.ndarray, face: FaceBox, skin: Colour, background: Colour) -> Colour | None:
    """Return the median of what is neither skin nor background around the forehead; None: there is too little."""
    boxes = ((0.2, -0.22, 0.8, 0.06), (-0.06, 0.0, 0.08, 0.3), (0.92, 0.0, 1.06, 0.3))
    pixels = np.concatenate([_patch(image, face, box) for box in boxes])
    if not len(pixels):
        return None
    lab = _lab(pixels)
    is_hair = np.ones(len(pixels), bool)
    for colour in (skin, background):
        is_hair &= np.linalg.norm(lab - _lab(np.array([colour], np.uint8)), axis=1) > _DIFFERENT
    if is_hair.mean() < _ENOUGH:
        return None
    return _colour(pixels[is_hair])


def _lab(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _colour(pixels: np.ndarray) -> Colour:
    red, green, blue = np.median(pixels, axis=0)
    return int(red), int(green), int(blue)
