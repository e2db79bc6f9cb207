"""What expression does not move in the parametric face: background, body, neck, skull, ears, hair, beard, age.

They are painted once per appearance and size on a larger canvas, reduced, and kept. The jaw is the exception: the
painted head is stretched to `JAW_LEVELS` degrees of jaw drop, and a frame takes the nearest.
"""

import functools

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import EYE_Y, Appearance, Proportions, proportions
from empatheia_jax.generators.classical.drawing import (
    FRAMING,
    FRAMING_CENTRE,
    Layer,
    darken,
    ellipse,
    mirror,
    mix,
    smooth,
)
from empatheia_jax.generators.classical.hair import draw_back_hair, draw_front_hair

JAW_LEVELS = 8
JAW_DROP = 0.05  # most the chin moves down, head coordinates


class StaticFace:
    """The painted layers of one appearance at one size.

    Attributes:
      background: RGB uint8 [size, size, 3].
      heads: uint8 [jaw_levels, size, size, 4], the head at each degree of jaw drop; RGB premultiplied by coverage, and
        coverage.
    """

    def __init__(self, appearance: Appearance, size: int, jaw_levels: int = JAW_LEVELS, oversampling: int = 2):
        side = min(1024, size * oversampling)
        head = proportions(appearance)
        self.background = _draw_background(appearance, head, side).resize(size)[0]
        layer = _draw_head(appearance, head, side)
        drops = [_drop_jaw(layer, head, JAW_DROP * level / (jaw_levels - 1)) for level in range(jaw_levels)]
        self.heads = np.stack([np.dstack(drop.resize(size)) for drop in drops])


@functools.lru_cache(maxsize=64)
def static_face(appearance: Appearance, size: int) -> StaticFace:
    """Return the painted layers of an appearance; the last 64 are kept."""
    return StaticFace(appearance, size)


def face_outline(head: Proportions) -> np.ndarray:
    """Return the face's contour [n, 2], head coordinates."""
    w, chin = head.width, head.chin
    jaw_y = EYE_Y + 0.62 * (chin - EYE_Y)
    right = [
        (0, head.top),
        (w * 0.62, head.top + 0.035),
        (w * 0.96, head.top + 0.15),
        (w, EYE_Y),
        (w * (0.5 + 0.5 * head.jaw), EYE_Y + 0.36 * (chin - EYE_Y)),
        (w * head.jaw * 0.9, jaw_y),
        (w * (head.chin_width + 0.14), chin - 0.045),
        (w * head.chin_width * 0.55, chin - 0.005),
        (0, chin),
    ]
    return smooth(mirror(right))


def _draw_background(appearance: Appearance, head: Proportions, side: int) -> Layer:
    """Paint the backdrop with a soft glow, the hair behind, clothes, and the neck with the head's shadow on it."""
    layer = Layer(side, appearance.background)
    layer.tint(ellipse((0.5, 0.4), (0.42, 0.42)), mix(appearance.background, (255, 255, 255), 0.45), 0.8, 0.12)
    layer.tint(ellipse((0.5, 1.12), (0.7, 0.25)), darken(appearance.background, 0.8), 0.6, 0.1)
    draw_back_hair(layer, appearance, head)
    s, n = head.shoulders, head.neck
    top = max(head.chin + 0.045, 0.80)
    body = [
        (0, top - 0.01),
        (n * 0.98, top - 0.005),
        (s * 0.72, top + 0.05),
        (s, top + 0.11),
        (s + 0.05, 1.2),
        (0, 1.2),
    ]
    layer.fill(smooth(mirror(body)), appearance.clothes)
    layer.tint(
        smooth(mirror([(s * 0.5, 0.92), (s, 0.95), (s + 0.05, 1.2), (s * 0.4, 1.2)])),
        darken(appearance.clothes, 0.72),
        0.5,
        0.03,
    )
    skin = darken(appearance.skin, 0.93)
    neck = [
        (0, 0.6),
        (n, 0.6),
        (n * 0.97, top - 0.04),
        (n * 1.1, top - 0.002),
        (n * 0.5, top + 0.035),
        (0, top + 0.045),
    ]
    layer.fill(smooth(mirror(neck)), skin)
    shadow = [(0, 0.6), (n, 0.6), (n, head.chin + 0.01), (0, head.chin + 0.045)]
    layer.tint(smooth(mirror(shadow)), darken(appearance.skin, 0.6), 0.75, 0.014)
    collar = smooth(
        [
            (0.5 - n * 1.12, top - 0.004),
            (0.5 - n * 0.5, top + 0.036),
            (0.5, top + 0.047),
            (0.5 + n * 0.5, top + 0.036),
            (0.5 + n * 1.12, top - 0.004),
        ],
        closed=False,
    )
    layer.stroke(collar, mix(appearance.clothes, (255, 255, 255), 0.3), 0.016)
    return layer


def _draw_head(appearance: Appearance, head: Proportions, side: int) -> Layer:
    layer = Layer(side)
    shade = darken(appearance.skin, 0.78)
    for direction in (-1, 1):
        _draw_ear(layer, appearance, head, direction)
    outline = face_outline(head)
    layer.fill(outline, appearance.skin)
    w = head.width
    rim = np.concatenate([outline, (outline - [0.5, 0.42])[::-1] * 0.86 + [0.493, 0.41]])
    layer.tint(rim, shade, 0.55, 0.02)
    layer.tint(ellipse((0.5 - w * 0.25, 0.28), (w * 0.55, 0.07)), mix(appearance.skin, (255, 250, 240), 0.5), 0.5, 0.03)
    for direction in (-1, 1):
        x = 0.5 + direction * head.eye_x
        layer.tint(ellipse((x, EYE_Y - 0.012), (0.052 * head.eye_size, 0.034)), shade, 0.4, 0.014)
        blush = {"child": 0.42, "young": 0.3, "middle-aged": 0.2, "elderly": 0.16}[appearance.age]
        rose = mix(appearance.skin, (232, 92, 84), 0.55)
        layer.tint(ellipse((0.5 + direction * w * 0.62, 0.575), (0.05, 0.036)), rose, blush, 0.022)
    layer.tint(ellipse((0.5, head.mouth_y + 0.047), (0.045, 0.012)), shade, 0.45, 0.01)
    _draw_age_marks(layer, appearance, head)
    _draw_beard(layer, appearance, head, outline)
    draw_front_hair(layer, appearance, head)
    return layer


def _draw_ear(layer: Layer, appearance: Appearance, head: Proportions, direction: int) -> None:
    x = 0.5 + direction * (head.width + 0.006)
    long = 1.2 if appearance.age == "elderly" else 1.0
    layer.fill(ellipse((x, 0.49), (0.032, 0.056 * long)), darken(appearance.skin, 0.94))
    layer.fill(ellipse((x + direction * 0.004, 0.49), (0.018, 0.036 * long)), darken(appearance.skin, 0.8))
    if appearance.gender == "female" and appearance.age != "child":
        layer.fill(ellipse((x + direction * 0.006, 0.49 + 0.062 * long), (0.010, 0.012)), (244, 214, 130))


def _draw_age_marks(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    """Paint the freckles of a child; the folds, bags and forehead lines of the old."""
    fold = darken(appearance.skin, 0.72)
    if appearance.age == "child":
        for dx, dy in ((-0.03, 0), (0, 0.014), (0.028, 0.002)):
            for direction in (-1, 1):
                layer.tint(ellipse((0.5 + direction * 0.1 + dx, 0.545 + dy), (0.006, 0.006)), fold, 0.8, 0.003)
        return
    depth = {"young": 0.0, "middle-aged": 0.5, "elderly": 1.0}[appearance.age]
    if not depth:
        return
    line = mix(appearance.skin, fold, 0.35 + 0.5 * depth)
    mouth = head.mouth_y
    for direction in (-1, 1):
        nasolabial = [(0.055, head.nose_y - 0.01), (0.085, (head.nose_y + mouth) / 2), (0.1, mouth + 0.01)]
        layer.stroke(
            smooth([(0.5 + direction * x, y) for x, y in nasolabial], closed=False), line, 0.004 + 0.006 * depth
        )
        bag = ellipse((0.5 + direction * head.eye_x, EYE_Y + 0.022), (0.045, 0.024), 16, start=0.35, end=np.pi - 0.35)
        layer.stroke(bag, line, 0.003 + 0.006 * depth)
        crow = 0.5 + direction * (head.eye_x + 0.064)
        for rise in (-0.016, 0.002, 0.02):
            ray = [
                (crow, EYE_Y + 0.002 + rise * 0.5),
                (crow + direction * 0.02 * (0.6 + 0.4 * depth), EYE_Y + rise * 1.3),
            ]
            layer.stroke(smooth(ray, closed=False), line, 0.003 + 0.003 * depth)
        if appearance.age == "elderly":
            jowl = [(0.115, mouth + 0.02), (0.105, mouth + 0.065), (0.075, mouth + 0.09)]
            layer.stroke(smooth([(0.5 + direction * x, y) for x, y in jowl], closed=False), line, 0.008)
    if appearance.age == "elderly":
        for y, half in ((0.262, 0.08), (0.29, 0.1), (0.318, 0.085)):
            forehead = [(0.5 - half, y + 0.006), (0.5, y - 0.003), (0.5 + half, y + 0.006)]
            layer.stroke(smooth(forehead, closed=False), mix(appearance.skin, fold, 0.5), 0.0055)


def _draw_beard(layer: Layer, appearance: Appearance, head: Proportions, outline: np.ndarray) -> None:
    mouth, w = head.mouth_y, head.width
    if appearance.beard == "stubble":
        right = [(0, mouth - 0.045), (0.07, mouth - 0.04), (w * 0.6, mouth - 0.035), (w * 0.98, 0.5), (w * 0.98, 0.6)]
        right += [
            (w * head.jaw * 0.94, EYE_Y + 0.62 * (head.chin - EYE_Y)),
            (w * 0.62, head.chin - 0.02),
            (0, head.chin + 0.01),
        ]
        layer.tint(smooth(mirror(right)), mix(appearance.skin, darken(appearance.hair, 0.9), 0.55), 0.5, 0.014)
    elif appearance.beard == "full":
        right = [(0, mouth - 0.034), (0.07, mouth - 0.03), (w * 0.62, mouth - 0.03), (w * 0.985, 0.5), (w * 0.97, 0.58)]
        right += [
            (w * head.jaw * 0.94, EYE_Y + 0.62 * (head.chin - EYE_Y)),
            (w * 0.62, head.chin - 0.02),
            (w * 0.3, head.chin + 0.022),
            (0, head.chin + 0.03),
        ]
        layer.fill(smooth(mirror(right)), appearance.hair)
        for x in (-0.1, -0.05, 0.0, 0.05, 0.1):
            strand = [(0.5 + x, head.chin - 0.055 - abs(x) * 0.2), (0.5 + x * 0.9, head.chin + 0.004 - abs(x) * 0.25)]
            layer.stroke(smooth(strand, closed=False), darken(appearance.hair, 0.86), 0.007)
        patch = [
            (0, mouth - 0.028),
            (0.07, mouth - 0.02),
            (0.088, mouth + 0.002),
            (0.06, mouth + 0.03),
            (0, mouth + 0.036),
        ]
        layer.fill(smooth(mirror(patch)), mix(appearance.skin, appearance.hair, 0.12))
    elif appearance.beard == "moustache":
        right = [
            (0, mouth - 0.042),
            (0.045, mouth - 0.047),
            (0.094, mouth - 0.012),
            (0.1, mouth + 0.008),
            (0.06, mouth - 0.016),
            (0, mouth - 0.021),
        ]
        layer.fill(smooth(mirror(right)), appearance.hair)


def _drop_jaw(layer: Layer, head: Proportions, drop: float) -> Layer:
    """Return the layer with its lower face stretched: below the nose, most at the chin, within the jaw's width."""
    if drop == 0:
        return layer
    side = layer.side
    grid = (np.arange(side) + 0.5) / side
    x = (grid - FRAMING_CENTRE[0]) / FRAMING + FRAMING_CENTRE[0]
    y = (grid - FRAMING_CENTRE[1]) / FRAMING + FRAMING_CENTRE[1]
    start, end = head.nose_y + 0.01, head.chin + drop
    share = np.clip((y - start) / (end - start), 0, 1)
    inside = np.clip((head.width * 0.99 - np.abs(x - 0.5)) / (head.width * 0.16), 0, 1)
    shift = drop * FRAMING * side * (share**1.15)[:, None] * inside[None]
    columns, rows = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    source = (rows - shift).astype(np.float32)
    lowered = Layer(side)
    lowered.rgb = cv2.remap(layer.rgb, columns, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lowered.alpha = cv2.remap(layer.alpha, columns, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return lowered
