"""What moves: brows, eyes, nose, mouth and wrinkles as outlines, computed for all frames of a clip at once.

`STYLE` names the coordinates of S_video and says what each moves; 0 is a neutral face, about 1 an expressive one.
"""

import numpy as np

from empatheia_jax.generators.classical.appearance import EYE_Y, Appearance, Proportions
from empatheia_jax.generators.classical.drawing import darker, mix, ribbon

STYLE = (
    "brow_raise",  # both brows up (+) or down
    "brow_slope",  # inner ends up (+: sorrow, fear) or down (anger)
    "brow_skew",  # the brow on the picture's right up, the other down
    "eye_open",  # wide open (+) or narrowed
    "cheek_raise",  # lower lids up, cheeks lifted: the smile that reaches the eyes
    "mouth_curve",  # corners up (+) or down
    "mouth_skew",  # the corner on the picture's right up alone: a smirk
    "mouth_part",  # lips apart (+) or pressed together
    "mouth_stretch",  # mouth wide (+) or narrow
    "lip_raise",  # upper lip lifted off the teeth
    "nose_wrinkle",  # nose wrinkled, nostrils up
    "head_tilt",  # head leans, clockwise on the picture
    "head_drop",  # head and look down (+) or chin up
)
INK = (52, 30, 30)
MOUTH_INSIDE = (86, 26, 32)
TONGUE = (204, 92, 92)
TEETH = (250, 246, 238)
WHITE = (252, 251, 248)

MOUTH_POINTS = 17
_U = np.linspace(-1, 1, MOUTH_POINTS)
_LID = np.linspace(-1, 1, 13)


def named(style: np.ndarray) -> dict[str, float]:
    """S_video [style_dim] by name, limited to what can be drawn."""
    return {name: float(np.clip(value, -2.2, 2.2)) for name, value in zip(STYLE, style, strict=True)}


def blink(frames: np.ndarray) -> np.ndarray:
    """How far the lids stay open, 0..1, at frame numbers [F]: a blink of 5 frames about every three seconds."""
    phase = (frames + 57) % 79
    return np.interp(phase, [0, 1, 2, 3, 4, 5], [1.0, 0.45, 0.05, 0.2, 0.7, 1.0])


def head_pose(style: dict[str, float], frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift [F, 2] (shares of the side) and roll [F] (radians) of the head: the style's pose and a slow sway."""
    x = 0.0055 * np.sin(2 * np.pi * frames / 61) + 0.0025 * np.sin(2 * np.pi * frames / 23 + 1.0)
    y = 0.0035 * np.sin(2 * np.pi * frames / 43 + 0.6) + 0.010 * style["head_drop"]
    roll = 0.014 * np.sin(2 * np.pi * frames / 71 + 0.3) + 0.075 * style["head_tilt"]
    return np.stack([x, y], axis=-1), roll


def jaw(style: dict[str, float], content: np.ndarray) -> np.ndarray:
    """How far the jaw is down, 0..1 [F]."""
    rest = 0.42 * max(style["mouth_part"], 0.0) * (1 - 0.85 * content[:, 4])
    return np.clip(rest + (1 - 0.45 * rest) * content[:, 0], 0, 1)


def feature_shapes(look: Appearance, head: Proportions, style: np.ndarray, content: np.ndarray, start: int = 0):
    """All moving parts of a clip, back to front.

    Args:
      look, head: whose face.
      style: S_video [style_dim].
      content: C_video [F, 5].
      start: number of the first frame (blinks and sway follow it).
    Returns:
      A list of (colour, [outline [F, n, 2], ...]) in head coordinates.
    """
    frames = np.arange(start, start + len(content))
    v = named(style)
    content = np.clip(content, 0, 1)
    shift = 0.012 * v["head_drop"]  # features lead the head when it nods
    shapes = _nose(look, head, v, len(frames))
    shapes += _cheeks(look, head, v, len(frames))
    shapes += _eyes(look, head, v, blink(frames))
    shapes += _brows(look, head, v, len(frames))
    shapes += _mouth(look, head, v, content)
    return [(colour, [outline + [0.0, shift] for outline in outlines]) for colour, outlines in shapes]


def brow_colour(look: Appearance) -> tuple[int, int, int]:
    """A tone of the hair that stands out against the skin (grey brows stay grey, but darker than the face)."""
    limit = 0.50 * sum(look.skin)
    tone = darker(look.hair, 0.8)
    return tone if sum(tone) <= limit else tuple(int(c * limit / sum(tone)) for c in tone)


def lip_colours(look: Appearance) -> tuple[tuple, tuple]:
    """Upper and lower lip."""
    rose = (196, 62, 74) if look.gender == "female" and look.age != "child" else (190, 84, 78)
    share = {"female": 0.62, "male": 0.42}[look.gender] - (0.12 if look.age in ("child", "elderly") else 0.0)
    lower = mix(look.skin, rose, share)
    return darker(lower, 0.86), lower


def _still(curve, count: int) -> np.ndarray:
    """The same outline in every frame: [n, 2] -> [F, n, 2]."""
    return np.broadcast_to(np.asarray(curve, float), (count, *np.shape(curve)))


def _brows(look: Appearance, head: Proportions, v: dict[str, float], count: int):
    t = np.linspace(0, 1, 9)
    outlines = []
    arch = 0.016 if look.gender == "female" else 0.010
    for side in (-1, 1):
        lift = 0.030 * v["brow_raise"] + side * 0.022 * v["brow_skew"]
        inner = lift + 0.030 * v["brow_slope"]
        outer = lift - 0.012 * v["brow_slope"]
        pinch = 0.008 * np.clip(-v["brow_slope"] + 0.4 * v["nose_wrinkle"], 0, 2)
        x = 0.5 + side * (0.040 - pinch + t * (0.112 + pinch))
        rise = inner * (1 - t) ** 1.3 + outer * (1 - (1 - t) ** 1.3) + arch * np.sin(np.pi * np.clip(t * 0.9 + 0.05, 0, 1))
        y = head.brow_y + 0.006 - rise
        half = 0.5 * head.brow_thickness * (1.0 - 0.55 * t**1.6) * np.minimum(1, 0.55 + 3 * t)
        outlines.append(_still(ribbon(np.stack([x, y], -1), half), count))
    shapes = []
    skin = darker(look.skin, 0.72)
    knit = np.clip(-v["brow_slope"] - 0.15, 0, 1.2) + 0.5 * np.clip(v["brow_slope"] - 0.5, 0, 1)
    if knit > 0.03:
        lines = [_still(_line([(0.5 + s * 0.014, head.brow_y - 0.018), (0.5 + s * 0.011, head.brow_y + 0.022)], 0.006), count) for s in (-1, 1)]
        shapes.append((mix(look.skin, skin, min(1.0, knit)), lines))
    raised = np.clip(v["brow_raise"] - 0.25, 0, 1.2)
    if raised > 0.03:
        lines = []
        for y, half in ((0.045, 0.075), (0.068, 0.06)):
            y = head.brow_y - y - 0.018 * v["brow_raise"]
            lines.append(_still(_line([(0.5 - half, y + 0.004), (0.5, y - 0.003), (0.5 + half, y + 0.004)], 0.006), count))
        shapes.append((mix(look.skin, skin, 0.75 * min(1.0, raised)), lines))
    return [*shapes, (brow_colour(look), outlines)]


def _line(points, width: float) -> np.ndarray:
    """A short tapered stroke through two or three points."""
    points = np.asarray(points, float)
    t = np.linspace(0, 1, 7)
    known = np.linspace(0, 1, len(points))
    degree = len(points) - 1
    curve = np.stack([np.polyval(np.polyfit(known, points[:, axis], degree), t) for axis in (0, 1)], axis=-1)
    return ribbon(curve, 0.5 * width * np.sin(np.linspace(0.3, np.pi - 0.3, 7)))


def _eyes(look: Appearance, head: Proportions, v: dict[str, float], lids: np.ndarray):
    """Whites, irises, pupils, lights, lids: cut to the opening between the lids."""
    count, size = len(lids), head.eye_size
    width = 0.047 * (0.75 + 0.25 * size)
    opening = np.clip(1 + 0.42 * v["eye_open"], 0.12, 1.9)
    top_rest = 0.0235 * size * opening * (1 - 0.10 * max(v["cheek_raise"], 0))
    low = 0.0165 * size * np.clip(1 - 0.55 * v["cheek_raise"] + 0.10 * v["eye_open"], 0.15, 1.5)
    top = -low + (top_rest + low) * lids  # a closed upper lid meets the lower one
    bulge_top, bulge_low = (1 - np.abs(_LID) ** 2.3), (1 - _LID**2)
    whites, irises, pupils, lights, lashes, lower_lids, creases = [], [], [], [], [], [], []
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    look_down = 0.006 * np.clip(v["head_drop"], -1.5, 1.5)
    for side in (-1, 1):
        centre = 0.5 + side * head.eye_x
        x = centre + width * _LID
        tilt = -side * 0.0035 * _LID * (1.0 if look.gender == "female" else 0.4)
        upper = EYE_Y - top[:, None] * bulge_top + tilt
        lower = np.broadcast_to(EYE_Y + low * bulge_low + tilt, upper.shape)
        xs = np.broadcast_to(x, upper.shape)
        whites.append(np.concatenate([np.stack([xs, upper], -1), np.stack([xs, lower], -1)[:, ::-1]], axis=1))

        def disc(radius, dx=0.0, dy=0.0, upper=upper, lower=lower, x=x, centre=centre):
            px = centre + dx + radius * np.cos(angle)
            py = np.broadcast_to(EYE_Y + dy + look_down - 0.002 + radius * np.sin(angle), (count, len(angle)))
            roof = np.stack([np.interp(px, x, row) for row in upper])
            floor = np.stack([np.interp(px, x, row) for row in lower])
            return np.stack([np.broadcast_to(px, py.shape), np.clip(py, roof, floor)], axis=-1)

        iris = 0.0215 * (0.6 + 0.4 * size)
        irises.append(disc(iris))
        pupils.append(disc(iris * 0.52))
        lights.append(disc(iris * 0.27, dx=-0.4 * iris, dy=-0.4 * iris))
        thick = 0.0045 + 0.0028 * head.lashes
        taper = np.interp(side * _LID, [-1, 0.4, 1], [0.45, 1.0, 0.8])
        lash_x = x + side * 0.006 * head.lashes * np.clip(side * _LID, 0, 1) ** 3
        lash = np.stack([np.broadcast_to(lash_x, upper.shape), upper - side * 0.004 * head.lashes * _LID**3 * side], -1)
        lashes.append(ribbon(lash, 0.62 * thick * taper))
        lower_lids.append(ribbon(np.stack([xs, lower], -1)[:, 2:-2], 0.0014 + 0.0010 * np.cos(_LID[2:-2])))
        crease = np.stack([xs, upper - 0.011 - 0.002 * size], -1)[:, 1:-1]
        creases.append(ribbon(crease, 0.0019 * np.cos(_LID[1:-1] * 1.2)))
    shade = darker(look.skin, 0.68)
    return [
        (WHITE, whites),
        (look.eyes, irises),
        ((22, 16, 18), pupils),
        ((255, 255, 255), lights),
        (shade, lower_lids + creases),
        (INK if sum(look.hair) < 420 else mix(INK, look.hair, 0.12), lashes),
    ]


def _nose(look: Appearance, head: Proportions, v: dict[str, float], count: int):
    size, y = head.nose_size, head.nose_y - 0.012 * v["nose_wrinkle"]
    flare = 1 + 0.18 * np.clip(v["nose_wrinkle"], 0, 2)
    shade = darker(look.skin, 0.76)
    t = np.linspace(0, np.pi, 11)
    ball = np.stack([0.5 - 0.024 * size * flare * np.cos(t), y + 0.012 * size * np.sin(t)], -1)
    shapes = [(shade, [_still(ribbon(ball, 0.0030 + 0.0012 * np.sin(t)), count)])]
    wings = []
    for side in (-1, 1):
        arc = np.linspace(-1.1, 1.3, 7)
        wing = np.stack([0.5 + side * (0.024 * size * flare + 0.010 * np.cos(arc)), y - 0.003 + 0.012 * np.sin(arc)], -1)
        wings.append(_still(ribbon(wing, 0.0028 * np.cos(arc * 0.9)), count))
    bridge = np.stack([0.5 + 0.016 * size + 0.004 * np.linspace(0, 1, 7) ** 2, np.linspace(EYE_Y + 0.012, y - 0.028, 7)], -1)
    shapes.append((mix(look.skin, shade, 0.75), wings))
    shapes.append((mix(look.skin, shade, 0.4), [_still(ribbon(bridge, 0.0032 * np.sin(np.linspace(0.4, 2.8, 7))), count)]))
    wrinkle = np.clip(v["nose_wrinkle"], 0, 1.5)
    if wrinkle > 0.03:
        lines = []
        for dy in (0.0, 0.016, 0.032):
            half = 0.018 - 0.1 * dy
            lines.append(_still(_line([(0.5 - half, EYE_Y + 0.012 + dy), (0.5, EYE_Y + 0.005 + dy), (0.5 + half, EYE_Y + 0.012 + dy)], 0.0055), count))
        shapes.append((mix(look.skin, darker(look.skin, 0.66), min(1.0, wrinkle)), lines))
    return shapes


def _cheeks(look: Appearance, head: Proportions, v: dict[str, float], count: int):
    """The fold from nose to mouth, deep in a smile or in disgust."""
    depth = np.clip(0.8 * v["cheek_raise"] + 0.5 * v["lip_raise"] + 0.3 * v["mouth_curve"] - 0.15, 0, 1)
    if depth <= 0.03:
        return []
    spread = 0.012 * v["mouth_stretch"] + 0.010 * v["cheek_raise"]
    folds = []
    for side in (-1, 1):
        points = [(0.050, head.nose_y - 0.012), (0.088 + spread, (head.nose_y + head.mouth_y) / 2 - 0.006), (0.104 + spread, head.mouth_y)]
        folds.append(_still(_line([(0.5 + side * x, y) for x, y in points], 0.007), count))
    return [(mix(look.skin, darker(look.skin, 0.7), 0.8 * depth), folds)]


def mouth_lines(head: Proportions, v: dict[str, float], content: np.ndarray) -> dict[str, np.ndarray]:
    """The four edges of the lips, each [F, n, 2]: outer top, inner top, inner bottom, outer bottom."""
    opened, wide, rounded, teeth, press = (content[:, i, None] for i in range(5))
    drop = jaw(v, content)[:, None]
    squeeze = np.clip(0.5 * press + 0.6 * max(-v["mouth_part"], 0), 0, 1)
    half = 0.074 * head.mouth_size * (1 + 0.20 * v["mouth_stretch"] + 0.16 * wide - 0.42 * rounded - 0.10 * drop)
    half = half * (1 + 0.08 * max(v["mouth_curve"], 0))
    centre_y = head.mouth_y + 0.006 * drop
    bend = 0.032 * v["mouth_curve"] * (1 - 0.35 * rounded)
    smirk = 0.034 * v["mouth_skew"]
    line = centre_y - bend * (_U**2 - 0.45) - smirk * np.clip(_U, 0, 1) ** 1.5 + 0.2 * smirk
    gap = 0.070 * head.mouth_size * drop * (0.75 + 0.25 * (1 - rounded))
    lift = 0.013 * np.clip(v["lip_raise"], 0, 2) * (1 - 0.8 * press) + 0.004 * teeth
    shape = (1 - np.abs(_U) ** 2.4) ** 0.75
    upper_in = line - (0.22 * gap + lift) * shape
    lower_in = line + (0.78 * gap + 0.008 * np.clip(v["lip_raise"], 0, 2) * (1 - press) + 0.006 * teeth) * shape
    full = head.lip * (1 - 0.5 * squeeze) * (1 + 0.35 * rounded)
    bow = 0.0105 * (1 - _U**2) ** 0.6 * (1 - 0.22 * np.exp(-((_U / 0.16) ** 2)))
    upper_out = upper_in - full * bow * (1 - 0.35 * min(1.0, max(v["lip_raise"], 0))) - 0.0008
    lower_out = lower_in + full * 0.0150 * (1 - _U**2) ** 0.65 + 0.0008
    x = np.broadcast_to(0.5 + half * _U + 0.010 * v["mouth_skew"], upper_in.shape)
    edges = {"upper_out": upper_out, "upper_in": upper_in, "lower_in": lower_in, "lower_out": lower_out}
    return {name: np.stack([x, y], axis=-1) for name, y in edges.items()}


def _mouth(look: Appearance, head: Proportions, v: dict[str, float], content: np.ndarray):
    lines = mouth_lines(head, v, content)
    upper_in, lower_in = lines["upper_in"], lines["lower_in"]
    x, roof, floor = upper_in[..., 0], upper_in[..., 1], lower_in[..., 1]

    def between(top, bottom):
        return np.concatenate([top, bottom[:, ::-1]], axis=1)

    upper, lower = lip_colours(look)
    shown = 0.013 + 0.006 * content[:, 3, None] + 0.006 * max(v["lip_raise"], 0)
    edge = np.minimum(roof + shown * (1 - 0.25 * _U**4), floor)
    upper_teeth = between(upper_in, np.stack([x, edge], -1))[:, :]
    bared = 0.008 * content[:, 3, None] + 0.010 * max(v["lip_raise"], 0)
    lower_teeth = between(np.stack([x, np.maximum(floor - bared * (1 - _U**2), roof)], -1), lower_in)
    tongue_top = np.maximum(floor - 0.45 * (floor - roof) * (1 - (_U / 0.8) ** 2).clip(0), edge)
    tongue = between(np.stack([x, np.minimum(tongue_top, floor)], -1), lower_in)
    inside = between(upper_in, lower_in)
    middle = np.stack([x, (roof + floor) / 2], -1)
    seam = ribbon(middle, 0.0026 * np.clip(1.25 - np.abs(_U) ** 6, 0.5, 1))
    corner = between(lines["upper_out"], lines["lower_out"])
    return [
        (upper, [between(lines["upper_out"], middle)]),
        (lower, [between(middle, lines["lower_out"])]),
        (MOUTH_INSIDE, [inside]),
        (TONGUE, [tongue]),
        (TEETH, [upper_teeth, lower_teeth] if bared.max() > 0.002 else [upper_teeth]),
        (mix(upper, INK, 0.72), [_seam(lines, seam)]),
    ] if corner.size else []


def _seam(lines: dict[str, np.ndarray], seam: np.ndarray) -> np.ndarray:
    """The dark line where the lips meet; it follows the upper lip once the mouth is open."""
    upper_in = lines["upper_in"]
    width = 0.0026 * np.clip(1.25 - np.abs(_U) ** 6, 0.5, 1)
    return ribbon(upper_in, width)
