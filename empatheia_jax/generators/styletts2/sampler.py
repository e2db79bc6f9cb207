"""Style diffusion's sampler: ADPM2 over Karras' noise levels (Karras et al. 2022; upstream's defaults)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SIGMA_MAX, SIGMA_MIN, RHO = 3.0, 1e-4, 9.0


def noise_levels(steps: int) -> np.ndarray:
    """Falling noise levels, float64 [steps].

    Raises:
      ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"style diffusion needs at least 2 steps, not {steps}")
    top, bottom = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return (top + np.arange(steps) / (steps - 1) * (bottom - top)) ** RHO


def update_levels(steps: int) -> np.ndarray:
    """What each of the steps - 1 updates goes by, float64 [steps - 1, 4]: sigma, and ADPM2's up, down and middle."""
    levels = noise_levels(steps)
    a, b = levels[:-1], levels[1:]
    up = np.sqrt(b**2 * (a**2 - b**2) / a**2)
    down = np.sqrt(b**2 - up**2)
    return np.stack([a, up, down, (a + down) / 2], axis=1)


def sample(denoise: Callable, noise: jax.Array, step_noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From noise to a style.

    Args:
      denoise: (x [B, 256], sigma []) -> x without its noise; called twice an update.
      noise: normal [B, 256]. step_noise: normal [steps - 1, B, 256].
    Returns:
      style [B, 256], and x after every update [steps - 1, B, 256].
    """
    steps = step_noise.shape[0] + 1
    levels = jnp.asarray(update_levels(steps), jnp.float32)

    def update(x, given):
        (sigma, up, down, middle), fresh = given
        slope = (x - denoise(x, sigma)) / sigma
        halfway = x + slope * (middle - sigma)
        slope = (halfway - denoise(halfway, middle)) / middle
        x = x + slope * (down - sigma) + up * fresh
        return x, x

    return jax.lax.scan(update, noise * float(noise_levels(steps)[0]), (levels, step_noise))
