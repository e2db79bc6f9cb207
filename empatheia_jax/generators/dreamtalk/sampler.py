"""Diffusion over expression coefficients: DDIM in 10 steps (DreamTalk's script) and DDPM in 1000 (its paper)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 1000


def betas() -> np.ndarray:
    """Return the noise variance beta of every step t, float64 [1001]; 0 at t = 0."""
    return np.concatenate([[0.0], np.linspace(1e-4, 0.02, STEPS)])


def alpha_bars() -> np.ndarray:
    """Return alpha bar, the signal's share of the variance at every step t, float64 [1001]; 1 at t = 0."""
    return np.exp(np.cumsum(np.log(1 - betas())))


def ddim_steps(steps: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps t that DDIM's updates start from and lead to, int [steps]: 901, 801, ..., 1 and 801, ..., 1, 0.

    Raises:
      ValueError: `steps` does not divide 1000.
    """
    if steps < 1 or STEPS % steps:
        raise ValueError(f"{steps} steps of diffusion: give a divisor of {STEPS}")
    start = np.arange(1, STEPS + 1, STEPS // steps)[::-1]
    return start, np.append(start[1:], 0)


def ddim(denoise: Callable, noise: jax.Array, steps: int = 10) -> tuple[jax.Array, jax.Array]:
    """Sample expressions by DDIM, without added noise (eta 0).

    Args:
      denoise: (x [B, L, 64], t [] int) -> x0.
      noise: normal [B, L, 64].
      steps: number of updates.

    Returns:
      The expression [B, L, 64], and x before every update [steps, B, L, 64].
    """
    bars = alpha_bars()
    start, end = ddim_steps(steps)
    levels = jnp.asarray(np.stack([bars[start], bars[end]], axis=1), jnp.float32)

    def update(x, per_step):
        t, (current, following) = per_step
        x0 = denoise(x, t)
        direction = (x - jnp.sqrt(current) * x0) / jnp.sqrt(1 - current)
        return jnp.sqrt(following) * x0 + jnp.sqrt(1 - following) * direction, x

    return jax.lax.scan(update, noise, (jnp.asarray(start), levels))


def ddpm(denoise: Callable, noise: jax.Array, step_noise: Callable) -> jax.Array:
    """Sample expressions [B, L, 64] by DDPM's ancestral sampling in 1000 steps (Ho et al. 2020, predicting x0).

    Args:
      denoise: as in `ddim`.
      noise: normal [B, L, 64].
      step_noise: (t [] int) -> normal noise of x's shape; not used at t = 1.
    """
    bars, variances = alpha_bars(), betas()
    t = np.arange(STEPS, 0, -1)
    # mean = a x0 + b x, standard deviation s
    a = np.sqrt(bars[t - 1]) * variances[t] / (1 - bars[t])
    b = np.sqrt(1 - variances[t]) * (1 - bars[t - 1]) / (1 - bars[t])
    s = np.sqrt(variances[t] * (1 - bars[t - 1]) / (1 - bars[t]))
    levels = jnp.asarray(np.stack([a, b, s], axis=1), jnp.float32)

    def update(x, per_step):
        t, (a, b, s) = per_step
        return a * denoise(x, t) + b * x + s * jnp.where(t > 1, step_noise(t), 0.0), None

    return jax.lax.scan(update, noise, (jnp.asarray(t), levels))[0]


def guided_denoiser(network: Callable, null: jax.Array, style: jax.Array, scale: float) -> Callable:
    """Return a denoiser (x, t) -> x0 with classifier-free guidance by the style.

    Args:
      network: (x, t [B], style [B, 256]) -> x0.
      null: style code of no style, [1 or B, 256].
      style: style codes [B, 256].
      scale: strength of guidance; at 1 the unconditional pass, which would cancel out, is not computed.
    """

    def denoise(x, t):
        steps = jnp.broadcast_to(t, x.shape[:1])
        conditional = network(x, steps, style)
        if scale == 1.0:
            return conditional
        unconditional = network(x, steps, jnp.broadcast_to(null, style.shape))
        return unconditional + scale * (conditional - unconditional)

    return denoise
