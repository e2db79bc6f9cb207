"""Shapes and paint for the parametric face: smooth curves as point lists, antialiased fills, soft shadows.

Coordinates are shares of the picture's side, y downwards. Shapes are given in head coordinates; `to_picture` zooms by
`FRAMING` so that the head fills the picture.
"""

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import Colour

FRAMING = 1.09  # zoom about FRAMING_CENTRE
FRAMING_CENTRE = np.array([0.5, 0.70])
SHIFT = 4  # fractional bits of cv2's coordinates


def smooth(points, samples: int = 8, closed: bool = True) -> np.ndarray:
    """Return the Catmull-Rom curve float64 [m, 2] through points [n, 2].

    Args:
      points: what the curve passes through, in order.
      samples: points of the curve between two given ones.
      closed: whether the last point is joined to the first.
    """
    points = np.asarray(points, float)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    p0, p1, p2, p3 = (padded[k : len(padded) - 3 + k, None] for k in range(4))
    t = (np.arange(samples) / samples)[None, :, None]
    pieces = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    curve = pieces.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def mirror(right) -> np.ndarray:
    """Return a closed outline from its right half [n, 2] (x from the middle, first and last point on the axis)."""
    right = np.asarray(right, float)
    left = right[-2:0:-1] * [-1, 1]
    return np.concatenate([right, left]) + [0.5, 0.0]


def ellipse(centre, radii, samples: int = 40, *, start: float = 0.0, end: float = 2 * np.pi) -> np.ndarray:
    """Return points [samples, 2] on an ellipse, from angle `start` to `end` (radians, clockwise on the picture)."""
    angle = np.linspace(start, end, samples)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=-1)


def ribbon(curve: np.ndarray, half_width: np.ndarray) -> np.ndarray:
    """Return the outline [..., 2n, 2] of bands along curves [..., n, 2], `half_width` [..., n] to each side."""
    tangent = np.gradient(curve, axis=-2)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    offset = normal * np.broadcast_to(half_width, curve.shape[:-1])[..., None]
    return np.concatenate([curve + offset, (curve - offset)[..., ::-1, :]], axis=-2)


def to_picture(points: np.ndarray) -> np.ndarray:
    """Convert head coordinates [..., 2] to picture coordinates."""
    return (points - FRAMING_CENTRE) * FRAMING + FRAMING_CENTRE


def to_pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Convert picture coordinates [..., 2] to cv2's fixed-point pixels (pixel centres are whole numbers)."""
    return np.ascontiguousarray(np.round((points * size - 0.5) * (1 << SHIFT)), dtype=np.int32)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return a colour between two, with `share` (0..1) of the second."""
    return tuple(int(round(a + (b - a) * share)) for a, b in zip(first, second, strict=True))


def darken(colour: Colour, factor: float) -> Colour:
    """Return a colour times `factor`, a little warmer as it darkens: skin in shade is redder."""
    warm = np.array([1.0, 0.97, 0.95]) if factor < 1 else np.ones(3)
    return tuple(int(v) for v in np.clip(np.array(colour) * factor * warm, 0, 255))


class Layer:
    """A premultiplied RGBA picture to paint on.

    Attributes:
      side: its side, pixels.
      rgb: uint8 [side, side, 3], premultiplied by coverage.
      alpha: coverage uint8 [side, side].
    """

    def __init__(self, side: int, background=None):
        self.side = side
        self.rgb: np.ndarray = np.zeros((side, side, 3), np.uint8)
        self.alpha: np.ndarray = np.zeros((side, side), np.uint8)
        if background is not None:
            self.rgb[:] = background
            self.alpha[:] = 255

    def fill(self, points: np.ndarray, colour) -> None:
        """Fill an outline (head coordinates [n, 2])."""
        pixels = [to_pixels(to_picture(points), self.side)]
        cv2.fillPoly(self.rgb, pixels, tuple(int(c) for c in colour), cv2.LINE_AA, SHIFT)
        cv2.fillPoly(self.alpha, pixels, 255, cv2.LINE_AA, SHIFT)

    def tint(self, points: np.ndarray, colour, strength: float, blur: float) -> None:
        """Tint what is already painted inside an outline; nothing is painted where the layer is empty.

        Args:
          points: outline [n, 2], head coordinates.
          colour: RGB.
          strength: 0 leaves what is there, 1 covers it.
          blur: width of the soft edge, share of the side.
        """
        small = max(64, self.side // 4)
        spread = max(blur * small, 0.3)
        pixels = to_pixels(to_picture(points), small)
        # only the part of the picture that the blurred outline can reach is computed
        low = np.clip(pixels.min(axis=0) / (1 << SHIFT) - 3 * spread - 2, 0, small).astype(int)
        high = np.clip(pixels.max(axis=0) / (1 << SHIFT) + 3 * spread + 3, 0, small).astype(int)
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [pixels - low.astype(np.int32) * (1 << SHIFT)], 255, cv2.LINE_AA, SHIFT)
        mask = cv2.GaussianBlur(mask, (0, 0), spread, borderType=cv2.BORDER_REPLICATE)
        zoom = self.side / small
        left, top, right, bottom = (int(round(v * zoom)) for v in (*low, *high))
        mask = cv2.resize(mask, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        box = np.s_[top:bottom, left:right]
        share = (mask.astype(np.float32) * np.float32(strength / 255.0))[..., None]
        target = self.alpha[box][..., None] * (np.float32(colour) / np.float32(255.0))
        self.rgb[box] = self.rgb[box] + (target - self.rgb[box]) * share + np.float32(0.5)

    def stroke(self, curve, colour, width: float) -> None:
        """Paint a line along a curve [n, 2] (head coordinates) of `width`, thinner towards its ends."""
        curve = np.asarray(curve, float)
        taper = np.sin(np.linspace(0.25, np.pi - 0.25, len(curve))) ** 0.6
        self.fill(ribbon(curve, 0.5 * width * taper), colour)

    def resize(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return RGB uint8 [size, size, 3] (premultiplied) and alpha uint8 [size, size]."""
        if size == self.side:
            return self.rgb, self.alpha
        rgb, alpha = (cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in (self.rgb, self.alpha))
        return rgb, alpha
