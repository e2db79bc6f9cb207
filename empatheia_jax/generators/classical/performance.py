"""How an avatar of the classical generator speaks with each emotion: its profile's voice, its emotion's prosody.

The sample corpus is performed with these styles. Pitch, spectrum and voice tell who speaks (age and gender by pitch
and formants, timbre by spectral tilt and a little pitch); pitch, range, rate and loudness tell the emotion.
The directions follow the literature on vocal expression (Juslin and Laukka 2003, table 7: high, wide, fast and loud for
joy and anger, low, narrow, slow and soft for sadness); their sizes are set so that seven emotions stay apart.
"""

import zlib

import numpy as np

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.speech_style import STYLE_DIM, UNITS, VOICE
from empatheia_jax.generators.classical.voices import voice_coordinates

_PITCH_HZ = {
    ("child", "male"): 245,
    ("child", "female"): 262,
    ("young", "male"): 122,
    ("young", "female"): 212,
    ("middle-aged", "male"): 108,
    ("middle-aged", "female"): 192,
    ("elderly", "male"): 114,
    ("elderly", "female"): 176,
}
_REFERENCE_HZ = 165.0  # about the mean F0 of the reference rendering
_TIMBRE = {"high": (1.5, 2.0), "mid": (0.0, 0.0), "low": (-1.5, -2.0)}
"""Semitones and dB per octave."""

_EMOTION = {
    "happy": (3.7, 0.35, 0.10, 2.5),
    "surprised": (5.5, 0.60, 0.00, 4.0),
    "angry": (0.3, 0.10, 0.20, 7.0),
    "fear": (2.0, -0.15, 0.32, -2.0),
    "sad": (-3.3, -0.55, -0.30, -5.0),
    "disgusted": (-1.6, 0.00, -0.20, 1.0),
    "contempt": (-5.0, -0.35, -0.05, -2.5),
}
"""F0 level (semitones), F0 range (log ratio), rate (log ratio), energy (dB), each against the profile's neutral."""

_JITTER = np.array([0.5, 0.03, 0.02, 0.5, 0.2])
"""Standard deviation between avatars of one profile, in the units of `_EMOTION` and `_TIMBRE`."""


def speech_style(profile: Profile, emotion: str, avatar_id: int) -> np.ndarray:
    """S_speech with which an avatar performs an emotion.

    Args:
      profile: who speaks.
      emotion: one of `AVATAR_EMOTIONS`.
      avatar_id: makes avatars of one profile a little different.
    Returns:
      float32 [STYLE_DIM], the style a perfect performance would measure.

    Raises:
      ValueError: a profile field or emotion outside its list.
    """
    for value, allowed in (
        (profile.age, AGES),
        (profile.gender, GENDERS),
        (profile.timbre, TIMBRES),
        (emotion, AVATAR_EMOTIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{value!r} cannot be performed: choose from {', '.join(allowed)}")
    pitch, spread, rate, energy = _EMOTION[emotion]
    shift, tilt = _TIMBRE[profile.timbre]
    pitch += shift + 12 * np.log2(_PITCH_HZ[profile.age, profile.gender] / _REFERENCE_HZ)
    jitter = np.random.default_rng(zlib.crc32(f"voice of avatar {avatar_id}".encode())).normal(size=5)
    manner = np.array([pitch, spread, rate, energy, tilt]) + _JITTER * np.clip(jitter, -2, 2)
    style = np.zeros(STYLE_DIM, np.float32)
    style[:5] = manner / UNITS[:5]
    style[VOICE] = voice_coordinates(profile.age, profile.gender)
    return style
