"""The sampler of style diffusion: ADPM2 over the noise levels of Karras et al. 2022, with upstream's defaults."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SIGMA_MAX, SIGMA_MIN, RHO = 3.0, 1e-4, 9.0


def noise_levels(steps: int) -> np.ndarray:
    """Return the decreasing noise levels, float64 [steps].

    Raises:
      ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"style diffusion needs at least 2 steps, not {steps}")
    top, bottom = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return (top + np.arange(steps) / (steps - 1) * (bottom - top)) ** RHO


def update_levels(steps: int) -> np.ndarray:
    """Return sigma and ADPM2's sigma_up, sigma_down and sigma_mid of each update, float64 [steps - 1, 4]."""
    levels = noise_levels(steps)
    sigma, following = levels[:-1], levels[1:]
    up = np.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
    down = np.sqrt(following**2 - up**2)
    return np.stack([sigma, up, down, (sigma + down) / 2], axis=1)


def sample(denoise: Callable, noise: jax.Array, step_noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw a style from noise.

    Args:
      denoise: (x [B, 256], sigma []) -> x without its noise; called twice per update.
      noise: normal [B, 256].
      step_noise: normal [steps - 1, B, 256].

    Returns:
      The style [B, 256], and x after every update [steps - 1, B, 256].
    """
    steps = step_noise.shape[0] + 1
    levels = jnp.asarray(update_levels(steps), jnp.float32)

    def update(x, per_step):
        (sigma, up, down, middle), new_noise = per_step
        slope = (x - denoise(x, sigma)) / sigma
        halfway = x + slope * (middle - sigma)
        slope = (halfway - denoise(halfway, middle)) / middle
        x = x + slope * (down - sigma) + up * new_noise
        return x, x

    return jax.lax.scan(update, noise * float(noise_levels(steps)[0]), (levels, step_noise))
