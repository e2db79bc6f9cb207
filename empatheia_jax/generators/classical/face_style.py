"""The S_video of an avatar that expresses an emotion; the faces of the sample corpus are drawn with it.

The emotion decides; age and gender change it a little, and every avatar deviates from it in its own way.
"""

import numpy as np

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.appearance import avatar_rng
from empatheia_jax.generators.classical.expression import STYLE_NAMES

EXPRESSIONS: dict[str, dict[str, float]] = {
    "happy": dict(
        brow_raise=0.35,
        brow_slope=0.1,
        cheek_raise=1.25,
        mouth_curve=1.2,
        mouth_part=0.45,
        mouth_stretch=0.7,
        lip_raise=0.2,
        head_tilt=0.35,
        head_drop=-0.2,
    ),
    "surprised": dict(
        brow_raise=1.3,
        brow_slope=0.1,
        eye_open=1.25,
        cheek_raise=-0.4,
        mouth_part=1.6,
        mouth_stretch=-1.0,
        head_drop=-0.4,
    ),
    "angry": dict(
        brow_raise=-0.9,
        brow_slope=-1.25,
        eye_open=0.1,
        cheek_raise=0.2,
        mouth_curve=-0.7,
        mouth_part=0.35,
        mouth_stretch=0.35,
        lip_raise=0.8,
        nose_wrinkle=0.5,
        head_drop=0.5,
    ),
    "fear": dict(
        brow_raise=0.7,
        brow_slope=1.0,
        eye_open=1.05,
        cheek_raise=-0.3,
        mouth_curve=-0.55,
        mouth_part=0.55,
        mouth_stretch=0.65,
        head_tilt=-0.45,
        head_drop=0.1,
    ),
    "sad": dict(
        brow_raise=0.1,
        brow_slope=1.15,
        eye_open=-0.75,
        cheek_raise=-0.1,
        mouth_curve=-1.2,
        mouth_part=-0.3,
        mouth_stretch=-0.35,
        head_tilt=0.6,
        head_drop=0.9,
    ),
    "disgusted": dict(
        brow_raise=-0.5,
        brow_slope=-0.45,
        brow_skew=0.3,
        eye_open=-0.7,
        cheek_raise=0.8,
        mouth_curve=-0.8,
        mouth_skew=0.3,
        mouth_part=0.1,
        lip_raise=1.25,
        nose_wrinkle=1.3,
        head_tilt=-0.6,
        head_drop=-0.3,
    ),
    "contempt": dict(
        brow_raise=0.1,
        brow_slope=-0.2,
        brow_skew=1.1,
        eye_open=-0.55,
        mouth_curve=0.2,
        mouth_skew=1.2,
        mouth_part=-0.6,
        mouth_stretch=0.1,
        head_tilt=-0.4,
        head_drop=-0.8,
    ),
}
"""emotion -> the coordinates it moves (after Ekman's action units: a raised lower lid in joy, knit brows in anger)."""

_INTENSITY = {"child": 1.1, "young": 1.0, "middle-aged": 0.97, "elderly": 0.92}
_AGE_SHIFT = {"elderly": dict(brow_raise=-0.08, mouth_curve=-0.06, head_drop=0.06), "child": dict(eye_open=0.06)}
_GENDER_SHIFT = {"female": dict(brow_raise=0.05, mouth_curve=0.04), "male": dict(brow_raise=-0.05, mouth_curve=-0.04)}
_AVATAR_DEVIATION, _EMOTION_DEVIATION = (
    0.07,
    0.05,
)  # standard deviations of an avatar's bias in all emotions, and in each


def emotion_styles() -> np.ndarray:
    """Return the styles of `AVATAR_EMOTIONS`, in that order, without profile and avatar: float64 [7, style_dim]."""
    return np.stack([_style_vector(EXPRESSIONS[emotion]) for emotion in AVATAR_EMOTIONS])


def face_style_for(profile: Profile, emotion: str, avatar_id: int) -> np.ndarray:
    """Return the S_video with which an avatar expresses one of the seven emotions.

    Args:
      profile: age makes it livelier or calmer, gender changes it a little.
      emotion: one of `AVATAR_EMOTIONS`.
      avatar_id: the avatar's number, which decides its own deviation.

    Returns:
      S_video float32 [style_dim] of order 1, coordinates named by `expression.STYLE_NAMES`; 0 is a neutral face.

    Raises:
      ValueError: an unknown emotion, age or gender.
    """
    if emotion not in EXPRESSIONS:
        raise ValueError(f"no expression of {emotion!r}: choose from {', '.join(AVATAR_EMOTIONS)}")
    if profile.age not in AGES or profile.gender not in GENDERS:
        raise ValueError(f"no face for age {profile.age!r}, gender {profile.gender!r}")
    style = _INTENSITY[profile.age] * _style_vector(EXPRESSIONS[emotion])
    style += _style_vector(_AGE_SHIFT.get(profile.age, {})) + _style_vector(_GENDER_SHIFT[profile.gender])
    style += _AVATAR_DEVIATION * avatar_rng(avatar_id, "face habit").standard_normal(len(STYLE_NAMES))
    style += _EMOTION_DEVIATION * avatar_rng(avatar_id, f"face {emotion}").standard_normal(len(STYLE_NAMES))
    return style.astype(np.float32)


def _style_vector(values: dict[str, float]) -> np.ndarray:
    return np.array([values.get(name, 0.0) for name in STYLE_NAMES])
