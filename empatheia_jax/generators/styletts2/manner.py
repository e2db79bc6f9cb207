"""How a sentence is spoken, in numbers that can be set: pitch level, pitch range, rate and energy.

StyleTTS 2 hides the manner in its prosodic style vector, which only a recording or its diffusion can give. Where there
are neither (`kokoro`), the predicted F0 is changed between the predictor and the decoder, the predicted durations
before their expansion, and the waveform is scaled; zeros change nothing.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MANNER_NAMES = ("f0_level", "f0_range", "rate", "energy")
MANNER_DIM = len(MANNER_NAMES)
F0_LEVEL, F0_RANGE, RATE, ENERGY = range(MANNER_DIM)
MANNER_UNITS = np.array([6.0, 0.4, 0.2, 5.0], np.float32)
"""One unit of each in semitones, log ratio, log ratio, dB: those of the classical S_speech."""
MANNER_LIMIT = 3.0  # units; beyond it the decoder has never heard such a pitch or pace
VOICED_HZ = 10.0  # a predicted F0 below is the source's noise
PEAK = 0.98  # of full scale; louder speech is not made louder than this


def shape_f0(f0: Float[Array, "B F"], manner: Float[Array, "B 4"]) -> Float[Array, "B F"]:
    """Return F0 at the level and with the range of a manner.

    The range turns about the mean of log F0 plus one standard deviation: turned about the mean, what is measured of the
    sound rises by about a semitone with every third that the range grows, since the lowest F0 is hardly heard as such.

    Args:
      f0: predicted F0 in Hz, two values a frame of 25 ms; 0 or less where nothing is voiced, and on padding.
      manner: in units of `MANNER_UNITS`.
    """
    units = jnp.clip(manner, -MANNER_LIMIT, MANNER_LIMIT) * MANNER_UNITS
    voiced = f0 > VOICED_HZ
    log_f0 = jnp.log(jnp.where(voiced, f0, 1.0))
    count = jnp.maximum(jnp.sum(voiced, axis=1, keepdims=True), 1)
    mean = jnp.sum(log_f0, axis=1, keepdims=True) / count
    deviation = jnp.sqrt(jnp.sum(jnp.where(voiced, jnp.square(log_f0 - mean), 0.0), axis=1, keepdims=True) / count)
    pivot = mean + deviation
    level = units[:, F0_LEVEL, None] * (np.log(2.0) / 12.0)
    shaped = jnp.exp(pivot + level + jnp.exp(units[:, F0_RANGE, None]) * (log_f0 - pivot))
    return jnp.where(voiced, shaped, f0)


def scale_energy(audio: np.ndarray, manner: np.ndarray) -> np.ndarray:
    """Return a waveform [samples] with the energy of a manner [4], at most as loud as `PEAK`.

    The predicted energy is left alone: the decoder's instance norms take a shift of it away again (5 dB asked for gave
    0.1 dB of sound).
    """
    decibels = np.clip(manner[ENERGY], -MANNER_LIMIT, MANNER_LIMIT) * MANNER_UNITS[ENERGY]
    gain = 10.0 ** (decibels / 20.0)
    peak = float(np.abs(audio).max(initial=0.0))
    if gain > 1.0 and gain * peak > PEAK:
        gain = max(1.0, PEAK / peak)
    return (audio * gain).astype(np.float32)


def scale_rate(durations: np.ndarray, manner: np.ndarray) -> np.ndarray:
    """Return durations float [P] at the rate of a manner [4]."""
    rate = np.clip(manner[RATE], -MANNER_LIMIT, MANNER_LIMIT) * MANNER_UNITS[RATE]
    return durations / np.exp(rate)
