"""Who speaks with Kokoro, and how: named voices, a voice for every avatar, a manner for every emotion.

A style is a voice vector [256] and a manner [4] (`manner`). The voices of avatars are mixes of named voices, chosen by
measurement (`benchmarks/voices.py`): pitch, pace and brightness in the order that a listener expects of age, gender and
timbre, and no two alike to a speaker network. Emotions change the manner alone. Their directions follow what studies of
acted speech agree on (Juslin and Laukka 2003, table 7; Scherer 2003, table 2; for disgust and contempt Banse and
Scherer 1996, table 6); their sizes are ours, as large as leaves the words clear. They are no listener's judgement.
"""

import functools
import zlib
from importlib import resources

import numpy as np

from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.styletts2.config import StyleTTS2Error
from empatheia_jax.generators.styletts2.manner import MANNER_UNITS

Mix = dict[str, float]
Offsets = tuple[float, float, float, float]

VOICES: dict[tuple[str, str, str], tuple[Mix, Offsets]] = {
    ("child", "male", "high"): ({"zm_yunxia": 1.0}, (1.0, 0.1, 0.0, 0.0)),
    ("child", "male", "mid"): ({"zf_xiaobei": 1.0}, (2.5, 0.1, 0.05, 0.0)),
    ("child", "male", "low"): ({"zm_yunxi": 0.5, "zf_xiaoxiao": 0.5}, (2.5, 0.1, 0.0, 0.0)),
    ("child", "female", "high"): ({"jf_tebukuro": 1.0}, (0.0, 0.1, 0.05, 0.0)),
    ("child", "female", "mid"): ({"jf_alpha": 1.0}, (1.5, 0.1, 0.0, 0.0)),
    ("child", "female", "low"): ({"zf_xiaoni": 1.0}, (2.0, 0.1, 0.0, 0.0)),
    ("young", "male", "high"): ({"am_eric": 1.0}, (0.5, 0.0, 0.0, 0.0)),
    ("young", "male", "mid"): ({"am_fenrir": 1.0}, (0.0, 0.0, 0.03, 0.0)),
    ("young", "male", "low"): ({"am_puck": 0.7, "jm_kumo": 0.3}, (0.0, 0.0, 0.03, 0.0)),
    ("young", "female", "high"): ({"af_jessica": 1.0}, (0.5, 0.0, 0.0, 0.0)),
    ("young", "female", "mid"): ({"af_heart": 1.0}, (0.0, 0.0, 0.03, 0.0)),
    ("young", "female", "low"): ({"af_sky": 1.0}, (0.0, 0.0, 0.0, 0.0)),
    ("middle-aged", "male", "high"): ({"bm_george": 1.0}, (0.0, 0.0, 0.03, 0.0)),
    ("middle-aged", "male", "mid"): ({"zm_yunjian": 1.0}, (0.0, 0.0, -0.05, 0.0)),
    ("middle-aged", "male", "low"): ({"am_onyx": 1.0}, (0.0, 0.0, -0.03, 0.0)),
    ("middle-aged", "female", "high"): ({"bf_alice": 1.0}, (0.0, 0.0, 0.0, 0.0)),
    ("middle-aged", "female", "mid"): ({"bf_emma": 1.0}, (0.0, 0.0, 0.0, 0.0)),
    ("middle-aged", "female", "low"): ({"af_alloy": 1.0}, (0.0, 0.0, -0.05, 0.0)),
    ("elderly", "male", "high"): ({"am_santa": 1.0}, (-0.5, 0.0, -0.08, 0.0)),
    ("elderly", "male", "mid"): ({"bm_fable": 0.6, "em_santa": 0.4}, (-0.5, 0.0, -0.1, 0.0)),
    ("elderly", "male", "low"): ({"bm_lewis": 0.8, "pm_santa": 0.2}, (0.0, 0.0, -0.1, 0.0)),
    ("elderly", "female", "high"): ({"ff_siwis": 0.7, "am_santa": 0.3}, (0.0, 0.0, -0.15, 0.0)),
    ("elderly", "female", "mid"): ({"hf_beta": 0.7, "pm_santa": 0.3}, (-1.0, 0.0, -0.13, 0.0)),
    ("elderly", "female", "low"): ({"af_river": 0.7, "em_santa": 0.3}, (-2.0, 0.0, -0.15, 0.0)),
}
"""(age, gender, timbre) -> shares of named voices, and the manner that belongs to it (semitones, log ratios, dB)."""

EXPRESSIONS: dict[str, Offsets] = {
    "happy": (2.5, 0.5, 0.10, 2.0),
    "surprised": (5.0, 0.7, -0.05, 3.0),
    "angry": (0.5, 0.4, 0.18, 5.0),
    "fear": (3.8, -0.4, 0.20, -2.5),
    "sad": (-3.0, -0.5, -0.20, -4.0),
    "disgusted": (-1.2, 0.2, -0.22, 1.0),
    "contempt": (-2.2, -0.2, 0.02, 0.5),
}
"""Avatar emotion -> F0 level (semitones), F0 range and rate (log ratios), energy (dB), against the plain manner."""

_AVATAR_DEVIATION = np.array([0.3, 0.03, 0.02, 0.3])
"""Standard deviations between avatars of one profile, in the units of `EXPRESSIONS`."""


@functools.cache
def named_voices() -> dict[str, np.ndarray]:
    """Return the voice vector float32 [256] of each of Kokoro's 54 voices by name: the mean over its rows."""
    with resources.files("empatheia_jax.generators.styletts2").joinpath("kokoro_voices.npz").open("rb") as file:
        return dict(np.load(file))


def named_style(voice: str, emotion: str | None = None) -> np.ndarray:
    """Return S_speech float32 [260] of one of Kokoro's voices.

    Args:
      voice: its name, "af_heart".
      emotion: one of `AVATAR_EMOTIONS`; None: plain.

    Raises:
      StyleTTS2Error: an unknown voice or emotion.
    """
    if voice not in named_voices():
        raise StyleTTS2Error(f"no voice {voice!r}: Kokoro has {', '.join(named_voices())}")
    return _style(named_voices()[voice], np.zeros(4), emotion)


def speech_style_for(profile: Profile, emotion: str | None = None) -> np.ndarray:
    """Return S_speech float32 [260] of an avatar.

    Args:
      profile: who speaks; avatars of one profile have one voice, and a number (`id`) makes the manner a little its own.
      emotion: one of `AVATAR_EMOTIONS`; None: plain.

    Raises:
      StyleTTS2Error: a profile or an emotion outside its list.
    """
    key = (profile.age, profile.gender, profile.timbre)
    if key not in VOICES:
        raise StyleTTS2Error(f"no voice for {', '.join(map(repr, key))}: ages, genders and timbres are data.emotions'")
    mix, offsets = VOICES[key]
    voice = np.sum([share * named_voices()[name] for name, share in mix.items()], axis=0)
    own = np.zeros(4)
    if profile.id is not None:
        draws = np.random.default_rng(zlib.crc32(f"manner of avatar {profile.id}".encode())).normal(size=4)
        own = _AVATAR_DEVIATION * np.clip(draws, -2, 2)
    return _style(voice, offsets + own, emotion)


def _style(voice: np.ndarray, offsets: np.ndarray, emotion: str | None) -> np.ndarray:
    if emotion is not None and emotion not in EXPRESSIONS:
        raise StyleTTS2Error(f"no emotion {emotion!r}: choose from {', '.join(AVATAR_EMOTIONS)}")
    manner = np.asarray(offsets) + (0.0 if emotion is None else np.array(EXPRESSIONS[emotion]))
    return np.concatenate([voice, manner / MANNER_UNITS]).astype(np.float32)
