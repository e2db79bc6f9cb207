"""The S_speech of an avatar that expresses an emotion: its profile's voice with the emotion's prosody.

The speech of the sample corpus is synthesised with these styles. Pitch, spectrum and voice show who speaks (age and
gender by pitch and formants, timbre by spectral tilt and a little pitch); pitch, range, rate and loudness show the
emotion. The directions follow the literature on vocal expression (Juslin and Laukka 2003, table 7: high, wide, fast and
loud for joy and anger, low, narrow, slow and soft for sadness); their sizes are set so that seven emotions stay apart.
`face_style` is the same for the face.
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
_TIMBRES = {"high": (1.5, 2.0), "mid": (0.0, 0.0), "low": (-1.5, -2.0)}
"""timbre -> F0 level (semitones) and spectral tilt (dB per octave), against the profile's neutral."""

_EXPRESSIONS = {
    "happy": (3.7, 0.35, 0.10, 2.5),
    "surprised": (5.5, 0.60, 0.00, 4.0),
    "angry": (0.3, 0.10, 0.20, 7.0),
    "fear": (2.0, -0.15, 0.32, -2.0),
    "sad": (-3.3, -0.55, -0.30, -5.0),
    "disgusted": (-1.6, 0.00, -0.20, 1.0),
    "contempt": (-5.0, -0.35, -0.05, -2.5),
}
"""emotion -> F0 level (semitones), F0 range and rate (log ratios), energy (dB), against the profile's neutral."""

_AVATAR_DEVIATION = np.array([0.5, 0.03, 0.02, 0.5, 0.2])
"""Standard deviations between avatars of one profile: the four of `_EXPRESSIONS`, then the tilt of `_TIMBRES`."""


def speech_style_for(profile: Profile, emotion: str, avatar_id: int) -> np.ndarray:
    """Return the S_speech with which an avatar expresses one of the seven emotions.

    Args:
      profile: who speaks.
      emotion: one of `AVATAR_EMOTIONS`.
      avatar_id: the avatar's number, which makes avatars of one profile a little different.

    Returns:
      S_speech float32 [STYLE_DIM], coordinates named by `speech_style.STYLE_NAMES`; a synthesiser that follows it
      exactly would be measured to have it.

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
            raise ValueError(f"no speech style for {value!r}: choose from {', '.join(allowed)}")
    pitch, spread, rate, energy = _EXPRESSIONS[emotion]
    shift, tilt = _TIMBRES[profile.timbre]
    pitch += shift + 12 * np.log2(_PITCH_HZ[profile.age, profile.gender] / _REFERENCE_HZ)
    deviation = np.random.default_rng(zlib.crc32(f"voice of avatar {avatar_id}".encode())).normal(size=5)
    manner = np.array([pitch, spread, rate, energy, tilt]) + _AVATAR_DEVIATION * np.clip(deviation, -2, 2)
    style = np.zeros(STYLE_DIM, np.float32)
    style[:5] = manner / UNITS[:5]
    style[VOICE] = voice_coordinates(profile.age, profile.gender)
    return style
