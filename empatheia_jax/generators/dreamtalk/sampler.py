"""Diffusion over expression coefficients: the script's DDIM in 10 steps, and the paper's DDPM in 1000."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 1000


def noise_shares() -> np.ndarray:
    """What step t adds (the papers' beta), float64 [1001]; 0 at 0."""
    return np.concatenate([[0.0], np.linspace(1e-4, 0.02, STEPS)])


def alpha_bars() -> np.ndarray:
    """Share of signal at step t, float64 [1001]; 1 at 0."""
    return np.exp(np.cumsum(np.log(1 - noise_shares())))


def ddim_steps(steps: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Steps t that DDIM stands at and goes to, int [steps]: 901, 801, ..., 1 and 801, ..., 1, 0.

    Raises:
      ValueError: `steps` does not divide 1000.
    """
    if steps < 1 or STEPS % steps:
        raise ValueError(f"{steps} steps of diffusion: give a divisor of {STEPS}")
    at = np.arange(1, STEPS + 1, STEPS // steps)[::-1]
    return at, np.append(at[1:], 0)


def ddim(denoise: Callable, noise: jax.Array, steps: int = 10) -> tuple[jax.Array, jax.Array]:
    """From noise [B, L, 64] to expression, without further noise (eta 0).

    Args:
      denoise: (x [B, L, 64], t [] int) -> x0.
    Returns:
      expression [B, L, 64], and x at the beginning of every step [steps, B, L, 64].
    """
    bars = alpha_bars()
    at, to = ddim_steps(steps)
    levels = jnp.asarray(np.stack([bars[at], bars[to]], axis=1), jnp.float32)

    def update(x, given):
        t, (here, there) = given
        x0 = denoise(x, t)
        direction = (x - jnp.sqrt(here) * x0) / jnp.sqrt(1 - here)
        return jnp.sqrt(there) * x0 + jnp.sqrt(1 - there) * direction, x

    return jax.lax.scan(update, noise, (jnp.asarray(at), levels))


def ddpm(denoise: Callable, noise: jax.Array, fresh: Callable) -> jax.Array:
    """The ancestral sampler of 1000 steps (Ho et al. 2020, posterior of a predicted x0).

    Args:
      denoise: as in `ddim`. fresh: (t [] int) -> normal noise of x's shape; not used at t = 1.
    """
    bars, betas = alpha_bars(), noise_shares()
    t = np.arange(STEPS, 0, -1)
    # mean = a x0 + b x, deviation s
    a = np.sqrt(bars[t - 1]) * betas[t] / (1 - bars[t])
    b = np.sqrt(1 - betas[t]) * (1 - bars[t - 1]) / (1 - bars[t])
    s = np.sqrt(betas[t] * (1 - bars[t - 1]) / (1 - bars[t]))
    levels = jnp.asarray(np.stack([a, b, s], axis=1), jnp.float32)

    def update(x, given):
        t, (a, b, s) = given
        return a * denoise(x, t) + b * x + s * jnp.where(t > 1, fresh(t), 0.0), None

    return jax.lax.scan(update, noise, (jnp.asarray(t), levels))[0]


def guided(network: Callable, null: jax.Array, style: jax.Array, scale: float) -> Callable:
    """(x, t) -> x0 with classifier-free guidance; at scale 1 the null pass is not made (it would cancel out).

    Args:
      network: (x, t [B], style [B, 256]) -> x0. null, style: [B, 256].
    """

    def denoise(x, t):
        steps = jnp.broadcast_to(t, x.shape[:1])
        conditional = network(x, steps, style)
        if scale == 1.0:
            return conditional
        unconditional = network(x, steps, jnp.broadcast_to(null, style.shape))
        return unconditional + scale * (conditional - unconditional)

    return denoise
