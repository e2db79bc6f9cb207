"""The harmonic source of both vocoders (neural source-filter model): sines at F0 and its harmonics, and noise.

Phases are kept in cycles, and the whole cycles of each frame's advance are dropped, so that float32 stays accurate over
minutes (the plain cumulative sum of the original has an error of 1e-2 for negative F0 or long speech).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Linear

HOP = 300  # samples per frame of F0
SAMPLE_RATE = 24_000
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
HARMONICS = 9
AMPLITUDE, NOISE = 0.1, 0.003
VOICED_HZ = 10.0


def phases(f0: jax.Array) -> jax.Array:
    """Return the phases float32 [B, 300 L, 9] of harmonics 1 to 9, in cycles modulo 1, of F0 in Hz [B, L].

    Between the middles of two frames the phase is linear; before the first and after the last middle it is constant.
    """
    harmonic, f0 = jnp.arange(1, HARMONICS + 1), f0.astype(jnp.float32)[..., None]
    frequency = f0 * harmonic  # [B, L, 9]
    advance = frequency / FRAMES_PER_SECOND  # cycles per frame
    whole_cycles = jnp.floor(frequency / SAMPLE_RATE)  # whole cycles per sample: they do not change the samples
    # The terms that accumulate must be exact: in float32, multiples of 1/64 Hz and their remainders are.
    coarse = jnp.round(f0 * 64) / 64
    fraction = ((coarse * harmonic) % FRAMES_PER_SECOND + (f0 - coarse) * harmonic) / FRAMES_PER_SECOND
    at_middle = jax.lax.associative_scan(lambda a, b: (a + b) % 1.0, fraction, axis=1)
    # Sample n comes r samples after the middle of frame i.
    n = jnp.arange(HOP * f0.shape[1])
    i = (n - HOP // 2) // HOP
    r = (n - HOP // 2 - HOP * i + 0.5)[:, None]
    following = jnp.clip(i + 1, 0, f0.shape[1] - 1)
    moving = ((i >= 0) & (i + 1 < f0.shape[1]))[:, None]
    step = advance[:, following] * (r / HOP) - (whole_cycles[:, following] * r) % 1.0
    return at_middle[:, jnp.clip(i, 0, None)] + jnp.where(moving, step, 0.0)


class SourceModule(nnx.Module):
    """The source with its learned mixture of harmonics (upstream's SourceModuleHnNSF)."""

    def __init__(self):
        self.l_linear = Linear(HARMONICS, 1)

    def __call__(self, f0: jax.Array, noise: jax.Array) -> jax.Array:
        """Return the source float32 [B, 300 L] of F0 in Hz [B, L] (0 on padding) and normal noise [B, 300 L, 9]."""
        voiced = jnp.repeat(f0 > VOICED_HZ, HOP, axis=1)[..., None].astype(jnp.float32)
        sines = AMPLITUDE * jnp.sin(2 * jnp.pi * phases(f0)) * voiced
        sines = sines + noise * (NOISE * voiced + AMPLITUDE / 3 * (1 - voiced))
        return jnp.tanh(self.l_linear(sines))[..., 0]
