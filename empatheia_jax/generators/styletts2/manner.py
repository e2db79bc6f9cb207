"""How a sentence is spoken, in numbers that can be set: pitch level, pitch range, rate and energy.

StyleTTS 2 hides the manner in its prosodic style vector, which only a recording or its diffusion can give. Where there
are neither (`kokoro`), the predicted F0 and energy are changed between the predictor and the decoder, and the predicted
durations before their expansion; zeros change nothing.
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
ENERGY_PER_DB = 0.058
"""Change of the predicted energy (a log of mel power, in the network's own scale) that changes the sound by 1 dB."""


def shape_prosody(
    f0: Float[Array, "B F"], energy: Float[Array, "B F"], manner: Float[Array, "B 4"]
) -> tuple[Float[Array, "B F"], Float[Array, "B F"]]:
    """Return F0 and energy spoken in a manner.

    Args:
      f0: predicted F0 in Hz, two values a frame of 25 ms; 0 or less where nothing is voiced, and on padding.
      energy: predicted energy, in the network's scale; 0 on padding.
      manner: in units of `MANNER_UNITS`; its rate is not used here (`scale_rate`).
    """
    units = jnp.clip(manner, -MANNER_LIMIT, MANNER_LIMIT) * MANNER_UNITS
    voiced = f0 > VOICED_HZ
    log_f0 = jnp.log(jnp.where(voiced, f0, 1.0))
    mean = jnp.sum(log_f0, axis=1, keepdims=True) / jnp.maximum(jnp.sum(voiced, axis=1, keepdims=True), 1)
    level = units[:, F0_LEVEL, None] * (np.log(2.0) / 12.0)
    spread = jnp.exp(units[:, F0_RANGE, None])
    shaped = jnp.exp(mean + level + spread * (log_f0 - mean))
    louder = jnp.where(energy > 0, energy + ENERGY_PER_DB * units[:, ENERGY, None], energy)
    return jnp.where(voiced, shaped, f0), louder


def scale_rate(durations: np.ndarray, manner: np.ndarray) -> np.ndarray:
    """Return durations float [P] at the rate of a manner [4]."""
    rate = np.clip(manner[RATE], -MANNER_LIMIT, MANNER_LIMIT) * MANNER_UNITS[RATE]
    return durations / np.exp(rate)
