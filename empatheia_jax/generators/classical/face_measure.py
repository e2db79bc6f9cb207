"""S_video measured from pixels: kernel ridge regression, calibrated in the process on renders of invented avatars.

The eye and the mouth region of a frame become maps of what is darker, brighter and redder than the skin around it
(relative to that skin, so complexion hardly matters), are reduced by PCA and regressed to the style's coordinates.
Speech, blinks and sway are part of the calibration; a clip's style is the median over its frames. The calibration is
deterministic, takes a few seconds once and is kept for the process.

`face_geometry` uses none of this: it is plain geometry to check these measurements against.
"""

import dataclasses
import functools

import cv2
import numpy as np
import scipy.linalg

from empatheia_jax.data.emotions import AGES, GENDERS
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.appearance import appearance_for
from empatheia_jax.generators.classical.drawing import to_picture
from empatheia_jax.generators.classical.expression import STYLE_NAMES
from empatheia_jax.generators.classical.face_style import emotion_styles
from empatheia_jax.generators.classical.head import StaticFace
from empatheia_jax.generators.classical.render import draw_frames
from empatheia_jax.generators.classical.visemes import sample_content

SIDE = 128  # frames are scaled to this size, pixels
CLIP_FRAMES = 16  # the most frames of a clip that are measured
EYE_REGION = (0.29, 0.27, 0.71, 0.56)  # left, top, right, bottom of the regions, head coordinates
MOUTH_REGION = (0.35, 0.545, 0.65, 0.80)
_GRID = {EYE_REGION: (30, 22), MOUTH_REGION: (22, 20)}  # what a region is reduced to before PCA
_COMPONENTS = 120
_RIDGE, _LINEAR, _WIDTH = 2e-2, 0.05, 2.2
_AVATARS, _STYLES = 96, 20  # calibration: invented avatars, and styles rendered of each
_SIZES = (128, 128, 256)  # of the renders: lines look a little different in a larger picture, reduced
_FIRST_AVATAR = 900_000
_STYLE_NOISE = 0.28


def measure_style(frames: np.ndarray) -> np.ndarray:
    """Measure the style of a face video.

    Args:
      frames: uint8 [F, h, w, 3] RGB, framed as this package's face is. Of a filmed person the numbers are finite and
        of order 1, but mean little more than "darker, brighter, redder here".

    Returns:
      S_video float32 [style_dim], coordinates named by `expression.STYLE_NAMES`.

    Raises:
      ValueError: no frames, or not RGB.
    """
    sampled = sample_frames(frames)
    return np.median(calibration().predict(sampled), axis=0).astype(np.float32)


def sample_frames(frames: np.ndarray, count: int = CLIP_FRAMES, side: int = SIDE) -> np.ndarray:
    """Return at most `count` frames, spread evenly, their middle square scaled: uint8 [f, side, side, 3].

    Args:
      frames: uint8 [F, h, w, 3] RGB.
      count: the most frames to take.
      side: what the square is scaled to, pixels.

    Raises:
      ValueError: no frames, or not RGB.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.shape[0]:
        raise ValueError(f"frames must be uint8 [F, h, w, 3], F at least 1, not {frames.dtype} {list(frames.shape)}")
    count = min(count, len(frames))
    picked = frames[((np.arange(count) + 0.5) / count * len(frames)).astype(int)]
    height, width = picked.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = picked[:, top : top + edge, left : left + edge]
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in square])


def crop_region(frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the pixels of a square frame inside a box (left, top, right, bottom; head coordinates, head at rest)."""
    (left, top), (right, bottom) = np.round(to_picture(np.array(box).reshape(2, 2)) * len(frame)).astype(int)
    return frame[max(top, 0) : bottom, max(left, 0) : right]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The fitted regression: PCA of both regions, then kernel ridge regression."""

    means: list[np.ndarray]  # of the contrast maps, region by region
    bases: list[np.ndarray]  # principal directions [values, _COMPONENTS], region by region
    centres: np.ndarray  # [n, 2 * _COMPONENTS]
    weights: np.ndarray  # [n, style_dim]
    bias: np.ndarray  # [style_dim]
    gamma: float

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """Return the style [f, style_dim] shown in each of the frames that `sample_frames` returns."""
        parts = [
            (_contrast_maps(frames, box) - mean) @ basis
            for box, mean, basis in zip(_GRID, self.means, self.bases, strict=True)
        ]
        return _kernel(np.concatenate(parts, axis=-1), self.centres, self.gamma) @ self.weights + self.bias


def _contrast_maps(frames: np.ndarray, box) -> np.ndarray:
    """Return what is darker, brighter, redder than skin in a region of every frame: float32 [f, values] of order 1."""
    width, height = _GRID[box]
    patches = np.empty((len(frames), height * width, 3), np.float32)
    for patch, frame in zip(patches, frames, strict=True):
        soft = cv2.GaussianBlur(crop_region(frame, box), (0, 0), 0.75)
        patch[:] = cv2.resize(soft, (width, height), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    grey = patches @ np.array([0.299, 0.587, 0.114], np.float32)
    redness = patches[..., 0] - patches[..., 1]
    skin = np.maximum(_quantile(grey, 0.65), 20.0)  # most of a region is skin, lit
    darker, brighter = np.maximum(skin - grey, 0) / skin, np.maximum(grey - skin, 0) / skin
    return np.concatenate(
        [
            darker / np.maximum(_quantile(darker, 0.97), 0.1),
            brighter / np.maximum(_quantile(brighter, 0.98), 0.1),
            (redness - _quantile(redness, 0.5)) / skin,
        ],
        axis=1,
    )


def _quantile(rows: np.ndarray, share: float) -> np.ndarray:
    """Return the value [f, 1] that `share` of each row of [f, v] stays below."""
    rank = int(share * (rows.shape[1] - 1))
    return np.partition(rows, rank, axis=1)[:, rank : rank + 1]


def _kernel(x: np.ndarray, centres: np.ndarray, gamma: float) -> np.ndarray:
    """Return a Gaussian kernel plus a little of a linear one, which extrapolates beyond the calibrated faces."""
    inner = x @ centres.T
    distance = (x**2).sum(1)[:, None] + (centres**2).sum(1)[None] - 2 * inner
    return np.exp(-gamma * np.maximum(distance, 0)) + _LINEAR * gamma * inner


@functools.cache
def calibration() -> Calibration:
    """Return the calibration, fitted at first use."""
    rng = np.random.default_rng(20)
    rendered = [_render_avatar(rng, number) for number in range(_AVATARS)]
    frames, styles = (np.concatenate(parts) for parts in zip(*rendered, strict=True))
    means, bases, parts = [], [], []
    for box in _GRID:
        maps = _contrast_maps(frames, box)
        mean = maps.mean(axis=0)
        basis = _principal_directions(maps - mean, rng)
        means, bases, parts = [*means, mean], [*bases, basis], [*parts, (maps - mean) @ basis]
    centres = np.concatenate(parts, axis=-1)
    gamma = 1.0 / (_WIDTH * centres.shape[1] * float(centres.var(axis=0).mean()))
    gram = _kernel(centres, centres, gamma)
    gram[np.diag_indices_from(gram)] += _RIDGE
    bias = styles.mean(axis=0).astype(np.float32)
    weights = scipy.linalg.solve(gram, (styles - bias).astype(np.float32), assume_a="pos", overwrite_a=True)
    return Calibration(means, bases, centres, weights, bias, gamma)


def _render_avatar(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an invented avatar in mixtures of two emotions while it speaks: frames [_STYLES, ...] and their styles."""
    age, gender = AGES[number % len(AGES)], GENDERS[number // len(AGES) % len(GENDERS)]
    appearance = appearance_for(Profile(age, gender, "mid"), _FIRST_AVATAR + number)
    emotions = np.concatenate([emotion_styles(), np.zeros((1, len(STYLE_NAMES)))])
    share = rng.beta(0.5, 0.5, (_STYLES, 1))
    first, second = rng.integers(len(emotions), size=(2, _STYLES))
    styles = share * emotions[first] + (1 - share) * emotions[second]
    styles += _STYLE_NOISE * rng.standard_normal(styles.shape)
    moments = rng.integers(0, 250, _STYLES)
    content = sample_content(rng, 250)[moments]
    size = _SIZES[number % len(_SIZES)]
    layers = StaticFace(appearance, size, jaw_levels=3, oversampling=1)
    return (
        sample_frames(draw_frames(appearance, content, styles, size, frame_numbers=moments, layers=layers), _STYLES),
        styles,
    )


def _principal_directions(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the leading directions [v, _COMPONENTS] of centred rows, by random projection, weighted by variance^-1/4.

    The weights let small motions count beside large ones without raising noise to their level.
    """
    start = rng.standard_normal((rows.shape[1], _COMPONENTS + 10)).astype(np.float32)
    span = np.linalg.qr(rows.T @ (rows @ start))[0]
    projected = rows @ span
    variance, directions = np.linalg.eigh(projected.T @ projected / len(rows))
    variance, directions = variance[::-1][:_COMPONENTS], directions[:, ::-1][:, :_COMPONENTS]
    return (span @ directions) / np.maximum(variance, 1e-9) ** np.float32(0.25)
