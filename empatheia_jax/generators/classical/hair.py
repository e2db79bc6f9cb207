"""Hair of the parametric face: what lies behind the head and what lies on it, for every hair style.

Hairlines stay above the brows' highest reach, so that brows are always readable.
"""

import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, Proportions
from empatheia_jax.generators.classical.drawing import Layer, darken, ellipse, mirror, mix, smooth

LONG = ("long", "fringe_long", "curly_long")
CURLY = ("curly_short", "curly_long", "curly_short_full")


def draw_back_hair(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    """Paint the hair behind neck and head, in a darker tone."""
    colour, w, top = darken(appearance.hair, 0.78), head.width, head.top
    if appearance.hair_style in ("long", "fringe_long"):
        outline = [
            (0, top),
            (w * 0.9, 0.17),
            (w + 0.055, 0.34),
            (w + 0.065, 0.6),
            (w + 0.085, 0.86),
            (w * 0.7, 0.97),
            (0, 0.97),
        ]
        layer.fill(smooth(mirror(outline)), colour)
    elif appearance.hair_style == "curly_long":
        for y in np.linspace(0.3, 0.86, 8):
            reach = w + 0.03 + 0.05 * np.sin((y - 0.25) * 3.0)
            for side in (-1, 1):
                layer.fill(ellipse((0.5 + side * reach, y), (0.062, 0.06)), colour)
                layer.fill(ellipse((0.5 + side * reach * 0.72, y), (0.08, 0.07)), colour)
    elif appearance.hair_style in ("bob", "wavy"):
        bottom = head.chin - 0.03
        outline = [
            (0, top),
            (w * 0.9, 0.17),
            (w + 0.05, 0.34),
            (w + 0.06, 0.56),
            (w + 0.045, bottom),
            (w * 0.5, bottom + 0.02),
            (0, bottom),
        ]
        layer.fill(smooth(mirror(outline)), colour)
    elif appearance.hair_style == "ponytail":
        tail = [
            (0.58, 0.12),
            (0.76, 0.13),
            (0.82, 0.32),
            (0.8, 0.62),
            (0.86, 0.86),
            (0.74, 0.84),
            (0.71, 0.6),
            (0.7, 0.3),
        ]
        layer.fill(smooth(tail), colour)
    elif appearance.hair_style == "pigtails":
        for side in (-1, 1):
            x = 0.5 + side * (w + 0.055)
            bunch = [
                (0, 0.4),
                (side * 0.055, 0.43),
                (side * 0.085, 0.58),
                (side * 0.06, 0.74),
                (side * 0.01, 0.79),
                (-side * 0.012, 0.6),
            ]
            layer.fill(smooth(np.array(bunch) + [x - side * 0.02, 0]), colour)
            layer.stroke(
                smooth(np.array(bunch)[1:5] * [0.6, 1] + [x - side * 0.02, 0.01], closed=False), appearance.hair, 0.03
            )
            layer.fill(ellipse((x - side * 0.012, 0.415), (0.024, 0.02)), appearance.clothes)


def draw_front_hair(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    """Paint the hair on the head, over forehead and temples, with a few lighter and darker strands."""
    hair_style = appearance.hair_style
    if hair_style == "bald":
        _draw_side_tufts(layer, appearance, head)
        return
    if hair_style == "bun":
        layer.fill(ellipse((0.5, head.top - 0.022), (0.09, 0.062)), darken(appearance.hair, 0.88))
        layer.stroke(
            ellipse((0.5, head.top - 0.022), (0.058, 0.038), 24, start=np.pi * 1.1, end=np.pi * 1.8),
            appearance.hair,
            0.014,
        )
    if hair_style in CURLY:
        _draw_curls(layer, appearance, head)
        return
    outline, strands = _hair_cap(hair_style, head)
    layer.fill(smooth(outline), appearance.hair)
    light = mix(appearance.hair, (255, 244, 226), 0.22)
    dark = darken(appearance.hair, 0.8)
    for number, strand in enumerate(strands):
        layer.stroke(smooth(strand, closed=False), dark if number % 2 else light, 0.009)
    if hair_style in LONG or hair_style in ("bob", "wavy"):
        _draw_side_locks(layer, appearance, head)


def _hair_cap(hair_style: str, head: Proportions) -> tuple[np.ndarray, list]:
    """Return the outline of the hair on top of the head, and its strands."""
    w, top = head.width, head.top
    lift = _LIFT.get(hair_style, 0.036)
    outer_right = [(w * 0.55, top - lift * 0.75), (w * 0.95, 0.2), (w + 0.022, 0.32), (w + 0.014, 0.43)]
    outer = [(-x, y) for x, y in outer_right[::-1]] + [(0, top - lift)] + outer_right
    hairline = _HAIRLINES.get(hair_style, _HAIRLINES["side"])
    if hairline[-1][0] >= 0:  # given by its right half
        hairline = [*hairline, *((-x, y) for x, y in hairline[::-1] if x)]
    outline = np.array([*outer, *((w * x, y) for x, y in hairline)]) + [0.5, 0]
    part = -0.34 if hair_style in ("short", "quiff", "long", "bob", "wavy", "ponytail") else 0.0
    reach = {"receding": 0.02, "bun": 0.045, "pigtails": 0.05, "quiff": 0.05}.get(hair_style, 0.09)
    strands = []
    for share in (-0.75, -0.45, 0.2, 0.5, 0.78):
        start = (0.5 + w * (part * 0.8 + 0.12 * share), top - lift * 0.55)
        middle = (0.5 + w * (part * 0.5 + 0.62 * share), top + 0.015 - lift * 0.2)
        end = (0.5 + w * share * 0.96, top + reach + 0.05 * abs(share))
        strands.append([start, middle, end])
    return outline, strands


_LIFT = {"quiff": 0.056, "tousled": 0.05, "short": 0.034, "receding": 0.016, "bun": 0.022}
"""How far the hair stands above the skull."""

_HAIRLINES = {
    "short": [(0.95, 0.43), (0.86, 0.33), (0.62, 0.258), (0.1, 0.274), (-0.45, 0.235), (-0.86, 0.32), (-0.95, 0.43)],
    "quiff": [
        (0.95, 0.42),
        (0.86, 0.31),
        (0.66, 0.225),
        (0.2, 0.2),
        (-0.3, 0.24),
        (-0.72, 0.245),
        (-0.86, 0.32),
        (-0.95, 0.42),
    ],
    "receding": [(0.94, 0.43), (0.86, 0.34), (0.74, 0.235), (0.5, 0.165), (0.18, 0.2)],
    "bowl": [(0.97, 0.44), (0.9, 0.33), (0.8, 0.284), (0.4, 0.287), (0, 0.289)],
    "tousled": [
        (0.95, 0.42),
        (0.86, 0.32),
        (0.72, 0.285),
        (0.6, 0.245),
        (0.34, 0.285),
        (0.2, 0.24),
        (-0.08, 0.286),
        (-0.25, 0.24),
        (-0.5, 0.282),
        (-0.7, 0.245),
        (-0.86, 0.32),
        (-0.95, 0.42),
    ],
    "fringe_long": [(0.98, 0.46), (0.9, 0.33), (0.8, 0.283), (0.4, 0.287), (0, 0.29)],
    "pigtails": [(0.96, 0.43), (0.86, 0.33), (0.62, 0.272), (0.12, 0.23), (0, 0.205)],
    "bun": [(0.95, 0.42), (0.85, 0.32), (0.66, 0.235), (0.25, 0.21), (0, 0.207)],
    "side": [
        (0.97, 0.46),
        (0.88, 0.34),
        (0.72, 0.265),
        (0.2, 0.215),
        (-0.32, 0.175),
        (-0.62, 0.26),
        (-0.88, 0.34),
        (-0.97, 0.46),
    ],
}
"""Lower edge of the hair on the forehead, from the picture's right: x in half widths of the face, y."""


def _draw_side_locks(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    """Paint the hair that falls beside the face."""
    w = head.width
    bottom = 0.93 if appearance.hair_style in LONG else head.chin - 0.06
    wave = 0.014 if appearance.hair_style == "wavy" else 0.0
    for side in (-1, 1):
        y = np.linspace(0.27, bottom, 9)
        inner = w - 0.024 + 0.012 * np.sin((y - 0.27) * 6) + wave * np.sin(y * 40)
        outer = w + 0.05 + 0.02 * np.sin((y - 0.27) * 4) + wave * np.sin(y * 40 + 1)
        inner[0], outer[0], inner[-1], outer[-1] = w * 0.78, w * 0.98, w + 0.012, w + 0.028
        points = np.concatenate([np.stack([outer, y], -1), np.stack([inner, y], -1)[::-1]])
        points[:, 0] = 0.5 + side * points[:, 0]
        layer.fill(smooth(points), appearance.hair)
        for share, colour in (
            (0.4, mix(appearance.hair, (255, 244, 226), 0.22)),
            (0.68, darken(appearance.hair, 0.82)),
        ):
            x = 0.5 + side * (inner[1:-1] * (1 - share) + outer[1:-1] * share)
            layer.stroke(smooth(np.stack([x, y[1:-1]], -1), closed=False), colour, 0.009)


def _draw_side_tufts(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    w = head.width
    for side in (-1, 1):
        tuft = [
            (w * 0.93, 0.27),
            (w + 0.03, 0.3),
            (w + 0.045, 0.4),
            (w + 0.03, 0.49),
            (w - 0.004, 0.46),
            (w - 0.012, 0.36),
        ]
        layer.fill(smooth([(0.5 + side * x, y) for x, y in tuft]), appearance.hair)


def _draw_curls(layer: Layer, appearance: Appearance, head: Proportions) -> None:
    """Paint overlapping round curls around the skull; longer hair falls beside the face."""
    w, top = head.width, head.top
    low = {"curly_short": 0.4, "curly_short_full": 0.5, "curly_long": 0.56}[appearance.hair_style]
    cap = [(0, top - 0.03), (w * 0.8, 0.16), (w + 0.01, 0.3), (w - 0.03, 0.31), (w * 0.7, 0.25), (0, 0.225)]
    layer.fill(smooth(mirror(cap)), appearance.hair)
    light, dark = mix(appearance.hair, (255, 244, 226), 0.16), darken(appearance.hair, 0.84)
    spots = []
    for angle in np.linspace(np.pi, 2 * np.pi, 13):
        spots.append((0.5 + (w + 0.012) * np.cos(angle), 0.29 + (0.29 - top + 0.012) * np.sin(angle), 0.05))
    for angle in np.linspace(np.pi * 1.12, np.pi * 1.88, 9):
        spots.append((0.5 + w * 0.84 * np.cos(angle), 0.3 + (0.3 - top - 0.055) * np.sin(angle), 0.042))
    for y in np.arange(0.3, low, 0.05):
        for side in (-1, 1):
            spots.append((0.5 + side * (w + 0.022 + 0.05 * (y - 0.3)), y, 0.046))
    for number, (x, y, radius) in enumerate(spots):
        tone = (appearance.hair, light, dark)[number % 3]
        layer.fill(ellipse((x, y), (radius, radius)), mix(appearance.hair, tone, 0.7))
        layer.stroke(
            ellipse((x, y), (radius * 0.6, radius * 0.6), 20, start=3.4, end=5.6),
            mix(appearance.hair, light, 0.8),
            0.008,
        )
