"""The eight voices of the classical speech generator, one an age and gender, and their coordinates in S_speech.

A voice is set by its vocal tract (formant frequencies: short in children, long in men) and by what age does to the
spectrum above 2 kHz. Age sets the heights above formant 3, since vowels leave those formants where they are.

`speech_style_for` is the S_speech of an avatar that expresses an emotion: its profile's voice with the emotion's
prosody, as in the sample corpus. Pitch, spectrum and voice show who speaks (age and gender by pitch and formants,
timbre by spectral tilt and a little pitch); pitch, range, rate and loudness show the emotion. The directions follow the
literature on vocal expression (Juslin and Laukka 2003, table 7: high, wide, fast and loud for joy and anger, low,
narrow, slow and soft for sadness); their sizes are set so that seven emotions stay apart. `face_style` is the same for
the face.
"""

import functools
import zlib

import numpy as np

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.espeak import VoiceSpec
from empatheia_jax.generators.classical.speech_style import STYLE_DIM, UNITS, VOICE

VOICE_DIM = 4
"""Coordinates of a voice, the last four of S_speech: 1, 3 and 4 are the age's corner, 2 the gender."""


_TRACT = {
    ("child", "male"): 118,
    ("child", "female"): 127,
    ("young", "male"): 100,
    ("young", "female"): 116,
    ("middle-aged", "male"): 96,
    ("middle-aged", "female"): 112,
    ("elderly", "male"): 93,
    ("elderly", "female"): 108,
}
"""Formant frequencies in per cent of an adult man's."""

_HEIGHTS = {
    "child": (100, 100, 100, 90, 80, 110, 120, 120, 120),
    "young": (100, 100, 105, 110, 100, 90, 85, 85, 85),
    "middle-aged": (100, 100, 95, 80, 120, 120, 70, 60, 60),
    "elderly": (110, 100, 90, 100, 65, 60, 100, 110, 110),
}

_WIDTH = {"male": (100,) * 9, "female": (110, 120, 110, 110, 110, 110, 100, 100, 100)}
_BREATH = {"child": 1, "young": 0, "middle-aged": 0, "elderly": 3}

_AGE_CORNERS = {"child": (1, -1, 1), "young": (-1, -1, -1), "middle-aged": (-1, 1, 1), "elderly": (1, 1, -1)}
"""Ages as corners of a tetrahedron: every two are equally far apart, so no order is forced on them."""

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


@functools.cache
def voice_spec(age: str, gender: str) -> VoiceSpec:
    """Return the formants of the voice of `age` (emotions.AGES) and `gender` (emotions.GENDERS)."""
    tract, heights = _TRACT[age, gender], _HEIGHTS[age]
    if gender == "female":
        heights = (heights[0] + 15, *heights[1:])
    return VoiceSpec(f"{age}-{gender}", (tract,) * 9, heights, breath=(0, *(_BREATH[age],) * 7), width=_WIDTH[gender])


def voice_coordinates(age: str, gender: str) -> np.ndarray:
    """Return the coordinates float32 [VOICE_DIM] of a voice, entries -1 or 1."""
    first, second, third = _AGE_CORNERS[age]
    return np.array([first, 1 if gender == "female" else -1, second, third], np.float32)


def nearest_voice(coordinates: np.ndarray) -> tuple[str, str]:
    """Return (age, gender) of the voice nearest to `coordinates` [VOICE_DIM]."""
    voices = [(age, gender) for age in AGES for gender in GENDERS]
    distances = [float(((voice_coordinates(*voice) - coordinates) ** 2).sum()) for voice in voices]
    return voices[int(np.argmin(distances))]
