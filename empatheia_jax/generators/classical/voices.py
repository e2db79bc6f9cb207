"""The eight voices of the classical speech generator, one an age and gender, and their coordinates in S_speech.

A voice is set by its vocal tract (formant frequencies: short in children, long in men) and by what age does to the
spectrum above 2 kHz. Age sets the heights above formant 3, since vowels leave those formants where they are.
"""

import functools

import numpy as np

from empatheia_jax.data.emotions import AGES, GENDERS
from empatheia_jax.generators.classical.espeak import VoiceSpec

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
_BREATH = {"child": 1, "young": 0, "middle-aged": 0, "elderly": 3}
_AGE_CORNERS = {"child": (1, -1, 1), "young": (-1, -1, -1), "middle-aged": (-1, 1, 1), "elderly": (1, 1, -1)}
"""Ages as corners of a tetrahedron: every two are equally far apart, so no order is forced on them."""

VOICE_DIM = 4
"""Coordinates of a voice, the last four of S_speech: 1, 3 and 4 are the age's corner, 2 the gender."""

REFERENCE_VOICE = VoiceSpec("reference", (104,) * 9, (100,) * 9)


@functools.cache
def voice_spec(age: str, gender: str) -> VoiceSpec:
    """Return the formants of the voice of `age` (emotions.AGES) and `gender` (emotions.GENDERS)."""
    tract, heights = _TRACT[age, gender], _HEIGHTS[age]
    if gender == "female":
        heights = (heights[0] + 15, *heights[1:])
    return VoiceSpec(f"{age}-{gender}", (tract,) * 9, heights, breath=(0, *(_BREATH[age],) * 7), width=_WIDTH[gender])


_WIDTH = {"male": (100,) * 9, "female": (110, 120, 110, 110, 110, 110, 100, 100, 100)}


def voice_coordinates(age: str, gender: str) -> np.ndarray:
    """Return the coordinates float32 [VOICE_DIM] of a voice, entries -1 or 1."""
    first, second, third = _AGE_CORNERS[age]
    return np.array([first, 1 if gender == "female" else -1, second, third], np.float32)


def nearest_voice(coordinates: np.ndarray) -> tuple[str, str]:
    """Return (age, gender) of the voice nearest to `coordinates` [VOICE_DIM]."""
    voices = [(age, gender) for age in AGES for gender in GENDERS]
    distances = [float(((voice_coordinates(*voice) - coordinates) ** 2).sum()) for voice in voices]
    return voices[int(np.argmin(distances))]
