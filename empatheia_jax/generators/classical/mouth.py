"""The mouth of the parametric face: four edges of the lips moved by C_video and S_video, and what lies between them."""

import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, Proportions
from empatheia_jax.generators.classical.drawing import darken, mix, ribbon
from empatheia_jax.generators.classical.expression import INK, Shape, jaw_opening

INSIDE = (86, 26, 32)
TONGUE = (204, 92, 92)
TEETH = (250, 246, 238)

_U = np.linspace(-1, 1, 17)  # along the lips, from the corner on the picture's left to the other
_ARCH = (1 - np.abs(_U) ** 2.4) ** 0.75


def lip_colours(appearance: Appearance) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the colours of upper and lower lip."""
    rose = (196, 62, 74) if appearance.gender == "female" and appearance.age != "child" else (190, 84, 78)
    share = {"female": 0.62, "male": 0.42}[appearance.gender] - (
        0.12 if appearance.age in ("child", "elderly") else 0.0
    )
    lower = mix(appearance.skin, rose, share)
    return darken(lower, 0.86), lower


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
