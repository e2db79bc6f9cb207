"""The expression of the parametric face: brows, eyes, nose, wrinkles and mouth as outlines; the pose of head and jaw.

Everything is computed for all frames of a clip at once. `STYLE_NAMES` names the coordinates of S_video and says what
each moves; 0 is a neutral face, about 1 an expressive one. The mouth is four edges of the lips, moved by C_video and
S_video, and what lies between them.
"""

import dataclasses

import numpy as np

from empatheia_jax.generators.classical.appearance import EYE_Y, Appearance, Colour, Proportions
from empatheia_jax.generators.classical.drawing import darken, mix, ribbon

STYLE_NAMES = (
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
WHITE = (252, 251, 248)
INSIDE = (86, 26, 32)  # of the mouth
TONGUE = (204, 92, 92)
TEETH = (250, 246, 238)

_LID = np.linspace(-1, 1, 13)  # along the lids
_ANGLE = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_COSINE, _SINE = np.cos(_ANGLE), np.sin(_ANGLE)
_U = np.linspace(-1, 1, 17)  # along the lips, from the corner on the picture's left to the other
_ARCH = (1 - np.abs(_U) ** 2.4) ** 0.75


@dataclasses.dataclass(frozen=True)
class Shape:
    """Outlines of one colour, drawn together.

    `strength` [F] fades a wrinkle from `faint` (0, where it is not drawn) to `colour` (1); None: always `colour`.
    """

    colour: Colour
    outlines: list[np.ndarray]  # each [F, n, 2], head coordinates
    faint: Colour = (0, 0, 0)
    strength: np.ndarray | None = None


def style_by_name(style: np.ndarray) -> dict[str, np.ndarray]:
    """Return S_video [style_dim] or [F, style_dim] by name, each [1 or F], limited to what can be drawn."""
    return {name: np.clip(np.atleast_2d(style)[:, i], -2.2, 2.2) for i, name in enumerate(STYLE_NAMES)}


def head_pose(style: dict[str, np.ndarray], frame_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift [F, 2] (shares of the side) and roll [F] (radians) of the head: the style's pose and a slow sway."""
    x = 0.0055 * np.sin(2 * np.pi * frame_numbers / 61) + 0.0025 * np.sin(2 * np.pi * frame_numbers / 23 + 1.0)
    y = 0.0035 * np.sin(2 * np.pi * frame_numbers / 43 + 0.6) + 0.010 * style["head_drop"]
    roll = 0.014 * np.sin(2 * np.pi * frame_numbers / 71 + 0.3) + 0.075 * style["head_tilt"]
    return np.stack([x, y], axis=-1), roll


def lid_opening(frame_numbers: np.ndarray) -> np.ndarray:
    """Return how far the lids are open, 0..1, at frame numbers [F]: a blink of 5 frames about every three seconds."""
    return np.interp((frame_numbers + 57) % 79, [0, 1, 2, 3, 4, 5], [1.0, 0.45, 0.05, 0.2, 0.7, 1.0])


def jaw_opening(style: dict[str, np.ndarray], content: np.ndarray) -> np.ndarray:
    """Return how far the jaw is down, 0..1 [F]: speech on top of what the style leaves open."""
    rest = 0.46 * np.maximum(style["mouth_part"], 0.0) * (1 - 0.85 * content[:, 4])
    return np.clip(rest + (1 - 0.45 * rest) * content[:, 0], 0, 1)


def upper_shapes(
    appearance: Appearance, head: Proportions, style: dict[str, np.ndarray], frame_numbers: np.ndarray
) -> list[Shape]:
    """Return nose, cheek folds, eyes and brows of a clip, back to front.

    Args:
      appearance: whose face.
      head: its proportions.
      style: S_video by name, each [F].
      frame_numbers: the frames' numbers [F] in their clip (blinks follow them).
    """
    eyes = _eyes(appearance, head, style, lid_opening(frame_numbers))
    return [*_nose(appearance, head, style), *_cheeks(appearance, head, style), *eyes, *_brows(appearance, head, style)]


def mouth_shapes(
    appearance: Appearance, head: Proportions, style: dict[str, np.ndarray], content: np.ndarray
) -> list[Shape]:
    """Return lips, the dark between them, tongue, teeth and the line where the lips meet, back to front.

    Args:
      appearance: whose face.
      head: its proportions.
      style: S_video by name, each [F].
      content: C_video [F, 5].
    """
    lines = mouth_lines(head, style, content)
    upper_in, lower_in = lines["upper_in"], lines["lower_in"]
    x, roof, floor = upper_in[..., 0], upper_in[..., 1], lower_in[..., 1]
    lifted = np.maximum(style["lip_raise"], 0)[:, None]

    def at(y):
        return np.stack([x, y], axis=-1)

    def between(top, bottom):
        return np.concatenate([top, bottom[:, ::-1]], axis=1)

    edge = np.minimum(roof + (0.013 + 0.006 * content[:, 3, None] + 0.006 * lifted) * (1 - 0.25 * _U**4), floor)
    bared = (0.008 * content[:, 3, None] + 0.010 * lifted) * (1 - _U**2)
    lower_teeth = between(at(np.maximum(floor - bared, roof)), lower_in)
    tongue_top = floor - 0.45 * (floor - roof) * np.clip(1 - (_U / 0.8) ** 2, 0, 1)
    tongue = between(at(np.clip(tongue_top, edge, floor)), lower_in)
    middle = at((roof + floor) / 2)
    upper, lower = lip_colours(appearance)
    return [
        Shape(upper, [between(lines["upper_out"], middle)]),
        Shape(lower, [between(middle, lines["lower_out"])]),
        Shape(INSIDE, [between(upper_in, lower_in)]),
        Shape(TONGUE, [tongue]),
        Shape(TEETH, [between(upper_in, at(edge))]),
        Shape(TEETH, [lower_teeth], TEETH, (bared[:, 8] - 0.003) / 0.01),  # less would be a white rim on the lip
        Shape(mix(upper, INK, 0.72), [ribbon(upper_in, 0.0026 * np.clip(1.25 - np.abs(_U) ** 6, 0.5, 1))]),
    ]


def mouth_lines(head: Proportions, style: dict[str, np.ndarray], content: np.ndarray) -> dict[str, np.ndarray]:
    """Return the edges of the lips, each [F, n, 2], head coordinates: upper_out, upper_in, lower_in, lower_out.

    Args:
      head: proportions of the face.
      style: S_video by name, each [F].
      content: C_video [F, 5].
    """
    _, wide, rounded, teeth, press = (content[:, i, None] for i in range(5))
    style = {name: value[:, None] for name, value in style.items()}
    drop = jaw_opening({name: value[:, 0] for name, value in style.items()}, content)[:, None]
    bared = np.clip(style["lip_raise"], 0, 2) * (1 - 0.8 * press)
    half = 0.074 * head.mouth_size * (1 + 0.26 * style["mouth_stretch"] + 0.16 * wide - 0.42 * rounded - 0.10 * drop)
    half = half * (1 + 0.08 * np.maximum(style["mouth_curve"], 0))
    smirk = 0.034 * style["mouth_skew"]
    bend = 0.032 * style["mouth_curve"] * (1 - 0.35 * rounded)
    middle = head.mouth_y + 0.006 * drop - bend * (_U**2 - 0.45) - smirk * (np.clip(_U, 0, 1) ** 1.5 - 0.2)
    gap = 0.080 * head.mouth_size * drop * (1 - 0.25 * rounded)
    upper_in = middle - (0.27 * gap + 0.013 * bared + 0.004 * teeth) * _ARCH
    lower_in = middle + (0.73 * gap + 0.008 * bared + 0.006 * teeth) * _ARCH
    squeeze = np.clip(0.5 * press + 0.6 * np.maximum(-style["mouth_part"], 0), 0, 1)
    full = head.lip * (1 - 0.5 * squeeze) * (1 + 0.35 * rounded)
    bow = 0.0105 * (1 - _U**2) ** 0.6 * (1 - 0.22 * np.exp(-((_U / 0.16) ** 2)))
    upper_out = upper_in - full * bow * (1 - 0.35 * np.clip(style["lip_raise"], 0, 1)) - 0.0008
    lower_out = lower_in + full * 0.0150 * (1 - _U**2) ** 0.65 + 0.0008
    x = 0.5 + half * _U + 0.010 * style["mouth_skew"]
    edges = {"upper_out": upper_out, "upper_in": upper_in, "lower_in": lower_in, "lower_out": lower_out}
    return {name: np.stack(np.broadcast_arrays(x, y), axis=-1) for name, y in edges.items()}


def lip_colours(appearance: Appearance) -> tuple[Colour, Colour]:
    """Return the colours of upper and lower lip."""
    rose = (196, 62, 74) if appearance.gender == "female" and appearance.age != "child" else (190, 84, 78)
    share = {"female": 0.62, "male": 0.42}[appearance.gender] - (
        0.12 if appearance.age in ("child", "elderly") else 0.0
    )
    lower = mix(appearance.skin, rose, share)
    return darken(lower, 0.86), lower


def brow_colour(appearance: Appearance) -> Colour:
    """Return a tone of the hair that stands out against the skin (grey brows stay grey, but darker than the face)."""
    limit = 0.50 * sum(appearance.skin)
    tone = darken(appearance.hair, 0.8)
    return tone if sum(tone) <= limit else tuple(int(c * limit / sum(tone)) for c in tone)


def _brows(appearance: Appearance, head: Proportions, style: dict[str, np.ndarray]) -> list[Shape]:
    t = np.linspace(0, 1, 9)
    arch = 0.016 if appearance.gender == "female" else 0.010
    outlines = []
    for side in (-1, 1):
        lift = 0.030 * style["brow_raise"] + side * 0.022 * style["brow_skew"]
        inner = (lift + 0.030 * style["brow_slope"])[:, None]
        outer = (lift - 0.012 * style["brow_slope"])[:, None]
        pinch = 0.008 * np.clip(-style["brow_slope"] + 0.4 * style["nose_wrinkle"], 0, 2)[:, None]
        x = 0.5 + side * (0.040 - pinch + t * (0.112 + pinch))
        bow = arch * np.sin(np.pi * (0.9 * t + 0.05))
        y = head.brow_y + 0.006 - (inner * (1 - t) ** 1.3 + outer * (1 - (1 - t) ** 1.3) + bow)
        half = 0.5 * head.brow_thickness * (1.0 - 0.55 * t**1.6) * np.minimum(1, 0.55 + 3 * t)
        outlines.append(ribbon(_outline(x, y), half))
    crease = darken(appearance.skin, 0.72)
    knit = np.clip(-style["brow_slope"] - 0.15, 0, 1) + 0.5 * np.clip(style["brow_slope"] - 0.5, 0, 1)
    frown = [
        _line([(0.5 + s * 0.014, head.brow_y - 0.018), (0.5 + s * 0.011, head.brow_y + 0.022)], 0.006) for s in (-1, 1)
    ]
    forehead = []
    for distance, half in ((0.045, 0.075), (0.068, 0.06)):
        y = head.brow_y - distance - 0.018 * style["brow_raise"]
        forehead.append(_line([(0.5 - half, y + 0.004), (0.5, y - 0.003), (0.5 + half, y + 0.004)], 0.006))
    raised = 0.8 * np.clip(style["brow_raise"] - 0.5, 0, 1)
    return [
        Shape(crease, frown, appearance.skin, knit),
        Shape(crease, forehead, appearance.skin, raised),
        Shape(brow_colour(appearance), outlines),
    ]


def _eyes(appearance: Appearance, head: Proportions, style: dict[str, np.ndarray], lids: np.ndarray) -> list[Shape]:
    """Return whites, irises, pupils, lights and lids, cut to the opening between the lids."""
    size = head.eye_size
    width = 0.047 * (0.75 + 0.25 * size)
    opening = np.clip(1 + 0.42 * style["eye_open"], 0.12, 1.9)
    top_open = 0.0235 * size * opening * (1 - 0.10 * np.maximum(style["cheek_raise"], 0))
    low = 0.0165 * size * np.clip(1 - 0.65 * style["cheek_raise"] + 0.10 * style["eye_open"], 0.15, 1.5)
    top = -low + (top_open + low) * lids  # a closed upper lid meets the lower one
    look_down = 0.006 * np.clip(style["head_drop"], -1.5, 1.5)[:, None]
    iris = 0.0215 * (0.6 + 0.4 * size)
    parts: dict[str, list] = {name: [] for name in ("white", "iris", "pupil", "light", "lash", "crease")}

    def lids_at(side, u):
        """Return the heights of the upper and the lower lid [F, n] at places u (-1..1) along them."""
        slant = -side * 0.0035 * (1.0 if appearance.gender == "female" else 0.4)
        return EYE_Y - top[:, None] * (1 - np.abs(u) ** 2.3) + slant * u, EYE_Y + low[:, None] * (1 - u**2) + slant * u

    def disc(side, radius, dx=0.0, dy=0.0):
        centre = 0.5 + side * head.eye_x
        x = centre + dx + radius * _COSINE
        upper, lower = lids_at(side, np.clip((x - centre) / width, -1, 1))
        return _outline(x, np.clip(EYE_Y + dy + look_down - 0.002 + radius * _SINE, upper, lower))

    for side in (-1, 1):
        x = 0.5 + side * head.eye_x + width * _LID
        upper, lower = lids_at(side, _LID)
        parts["white"].append(np.concatenate([_outline(x, upper), _outline(x, lower)[:, ::-1]], axis=1))
        parts["iris"].append(disc(side, iris))
        parts["pupil"].append(disc(side, iris * 0.52))
        parts["light"].append(disc(side, iris * 0.27, dx=-0.4 * iris, dy=-0.4 * iris))
        outward = np.clip(side * _LID, 0, 1) ** 3 * head.lashes  # lashes sweep beyond the outer corner
        taper = np.interp(side * _LID, [-1, 0.4, 1], [0.45, 1.0, 0.8])
        lash = _outline(x + side * 0.006 * outward, upper - 0.004 * outward)
        parts["lash"].append(ribbon(lash, 0.62 * (0.0045 + 0.0028 * head.lashes) * taper))
        parts["crease"].append(ribbon(_outline(x, lower)[:, 2:-2], 0.0014 + 0.0010 * np.cos(_LID[2:-2])))
        parts["crease"].append(
            ribbon(_outline(x, upper - 0.011 - 0.002 * size)[:, 1:-1], 0.0019 * np.cos(_LID[1:-1] * 1.2))
        )
    return [
        Shape(WHITE, parts["white"]),
        Shape(appearance.eyes, parts["iris"]),
        Shape((22, 16, 18), parts["pupil"]),
        Shape((255, 255, 255), parts["light"]),
        Shape(darken(appearance.skin, 0.68), parts["crease"]),
        Shape(INK, parts["lash"]),
    ]


def _nose(appearance: Appearance, head: Proportions, style: dict[str, np.ndarray]) -> list[Shape]:
    size = head.nose_size
    y = (head.nose_y - 0.012 * style["nose_wrinkle"])[:, None]
    flare = (1 + 0.18 * np.clip(style["nose_wrinkle"], 0, 2))[:, None]
    shade = darken(appearance.skin, 0.76)
    t = np.linspace(0, np.pi, 11)
    ball = ribbon(
        _outline(0.5 - 0.024 * size * flare * np.cos(t), y + 0.012 * size * np.sin(t)), 0.003 + 0.0012 * np.sin(t)
    )
    arc = np.linspace(-1.1, 1.3, 7)
    wings = [
        ribbon(
            _outline(0.5 + side * (0.024 * size * flare + 0.010 * np.cos(arc)), y - 0.003 + 0.012 * np.sin(arc)),
            0.0028 * np.cos(arc * 0.9),
        )
        for side in (-1, 1)
    ]
    t = np.linspace(0, 1, 7)
    bridge = _outline(0.5 + 0.016 * size + 0.004 * t**2, EYE_Y + 0.012 + t * (y - 0.028 - EYE_Y - 0.012))
    wrinkles = []
    for dy in (0.0, 0.016, 0.032):
        half, top = 0.018 - 0.1 * dy, EYE_Y + 0.012 + dy
        wrinkles.append(_line([(0.5 - half, top), (0.5, top - 0.007), (0.5 + half, top)], 0.0055))
    return [
        Shape(shade, [ball]),
        Shape(mix(appearance.skin, shade, 0.75), wings),
        Shape(mix(appearance.skin, shade, 0.4), [ribbon(bridge, 0.0032 * np.sin(np.linspace(0.4, 2.8, 7)))]),
        Shape(darken(appearance.skin, 0.66), wrinkles, appearance.skin, np.clip(style["nose_wrinkle"], 0, 1)),
    ]


def _cheeks(appearance: Appearance, head: Proportions, style: dict[str, np.ndarray]) -> list[Shape]:
    """Return the folds from nose to mouth and under the eyes, deep in a smile or in disgust."""
    depth = np.clip(0.8 * style["cheek_raise"] + 0.5 * style["lip_raise"] + 0.3 * style["mouth_curve"] - 0.15, 0, 1)
    spread = 0.012 * style["mouth_stretch"] + 0.010 * style["cheek_raise"]
    folds = []
    for side in (-1, 1):
        middle = (0.5 + side * (0.088 + spread), (head.nose_y + head.mouth_y) / 2 - 0.006)
        end = (0.5 + side * (0.104 + spread), head.mouth_y)
        folds.append(_line([(0.5 + side * 0.050, head.nose_y - 0.012), middle, end], 0.007))
    apples = []
    for side in (-1, 1):
        x = 0.5 + side * head.eye_x
        y = EYE_Y + 0.034 + 0.012 * head.eye_size - 0.006 * style["cheek_raise"]
        apples.append(_line([(x - 0.036, y + 0.004), (x, y + 0.013), (x + 0.036, y + 0.002)], 0.006))
    return [
        Shape(darken(appearance.skin, 0.7), folds, appearance.skin, 0.8 * depth),
        Shape(
            darken(appearance.skin, 0.76 if appearance.age in ("child", "young") else 0.68),
            apples,
            appearance.skin,
            np.clip(0.8 * style["cheek_raise"], 0, 1),
        ),
    ]


def _line(points, width) -> np.ndarray:
    """Return the outline [F, n, 2] of a short tapered stroke through points (x, y), each a number or [F]."""
    known = np.linspace(0, 1, len(points))
    t = np.linspace(0, 1, 7)
    # Lagrange's polynomial through the points
    basis = np.ones((len(points), len(t)))
    for i, a in enumerate(known):
        for b in np.delete(known, i):
            basis[i] *= (t - b) / (a - b)
    axes = [sum(np.atleast_1d(point[axis])[:, None] * basis[i] for i, point in enumerate(points)) for axis in (0, 1)]
    return ribbon(_outline(*axes), 0.5 * width * np.sin(np.linspace(0.3, np.pi - 0.3, 7)))


def _outline(x, y) -> np.ndarray:
    """Return points [F, n, 2] of coordinates that broadcast to [F, n]."""
    return np.stack(np.broadcast_arrays(x, y), axis=-1)
