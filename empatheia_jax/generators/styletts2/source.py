"""The harmonic source of both vocoders (neural source-filter model): sines at F0 and its overtones, and noise.

Phases are kept in cycles, each frame's advance less its whole cycles, so that float32 holds them over minutes (the
literal running sum, as in the original, is off by 1e-2 where F0 is negative or long).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Linear

HOP = 300  # samples a frame of F0
SAMPLE_RATE = 24_000
FRAMES_A_SECOND = SAMPLE_RATE // HOP
HARMONICS = 9
AMPLITUDE, NOISE = 0.1, 0.003
VOICED_HZ = 10.0


def phases(f0: jax.Array) -> jax.Array:
    """F0 in Hz [B, L] -> phase in cycles [B, 300 L, 9] of harmonics 1 to 9, less whole cycles; float32.

    Between the middles of two frames the phase goes linearly; before the first and behind the last it stands.
    """
    harmonic, f0 = jnp.arange(1, HARMONICS + 1), f0.astype(jnp.float32)[..., None]
    frequency = f0 * harmonic  # [B, L, 9]
    advance = frequency / FRAMES_A_SECOND  # cycles a frame
    whole = jnp.floor(frequency / SAMPLE_RATE)  # whole cycles a sample: they leave no trace in samples
    # What adds up must be right to the last bit: overtones and remainders of 64ths of a hertz are exact in float32.
    coarse = jnp.round(f0 * 64) / 64
    fraction = ((coarse * harmonic) % FRAMES_A_SECOND + (f0 - coarse) * harmonic) / FRAMES_A_SECOND
    at_middle = jax.lax.associative_scan(lambda a, b: (a + b) % 1.0, fraction, axis=1)
    # Sample n lies behind the middle of frame i by r samples.
    n = jnp.arange(HOP * f0.shape[1])
    i = (n - HOP // 2) // HOP
    r = (n - HOP // 2 - HOP * i + 0.5)[:, None]
    following = jnp.clip(i + 1, 0, f0.shape[1] - 1)
    moving = ((i >= 0) & (i + 1 < f0.shape[1]))[:, None]
    step = advance[:, following] * (r / HOP) - (whole[:, following] * r) % 1.0
    return at_middle[:, jnp.clip(i, 0, None)] + jnp.where(moving, step, 0.0)


class SourceModule(nnx.Module):
    """upstream's SourceModuleHnNSF."""

    def __init__(self):
        self.l_linear = Linear(HARMONICS, 1)

    def __call__(self, f0: jax.Array, noise: jax.Array) -> jax.Array:
        """F0 in Hz [B, L] and normal noise [B, 300 L, 9] -> source [B, 300 L], float32; 0 Hz where a row is padding."""
        voiced = jnp.repeat(f0 > VOICED_HZ, HOP, axis=1)[..., None].astype(jnp.float32)
        sines = AMPLITUDE * jnp.sin(2 * jnp.pi * phases(f0)) * voiced
        sines = sines + noise * (NOISE * voiced + AMPLITUDE / 3 * (1 - voiced))
        return jnp.tanh(self.l_linear(sines))[..., 0]
