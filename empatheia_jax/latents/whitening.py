"""Whitened signal states: what differs between Examples, on one scale in every direction.

Most of what r^s and r^v hold is the same in every Example (which of the 16 tokens it is) or large and of no use here
(how long the text was). Profile and emotion are linear in them but sit in directions of little variance, which a
disentangler that starts from nothing takes thousands of Examples to find. Not in the paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.sharding import param

SIGNALS = 16  # of each modality
FLOOR = 1e-2  # of the largest variance: smaller ones are not blown up further


class Whitening(nnx.Module):
    """(r - shift) W, brought to a root mean square of 1; set by `fit` when a stage begins, trained from there."""

    def __init__(self, width: int):
        self.shift = param(jnp.zeros((2, SIGNALS, width)), "rows", "rows", "features")
        self.kernel = param(jnp.eye(width), "features", "features")

    def __call__(self, r_s: jax.Array, r_v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """r^s, r^v float32 [K, 16, D] -> the same, whitened."""

        def white(r: jax.Array, shift: jax.Array) -> jax.Array:
            x = (r - shift) @ self.kernel[...]
            # While the LLM's side trains, its states wander off the shift: a bound keeps that from drowning the rest.
            return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)

        return white(r_s, self.shift[0]), white(r_v, self.shift[1])


def fit(speech: np.ndarray, video: np.ndarray) -> dict[str, np.ndarray]:
    """Shift [2, 16, D] and symmetric kernel [D, D] (ZCA) of states r^s, r^v [n, 16, D] of n Examples."""
    states = np.stack([speech, video]).astype(np.float64)  # [2, n, 16, D]
    shift = states.mean(axis=1)
    rest = (states - shift[:, None]).reshape(-1, states.shape[-1])
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    kernel = (vectors / np.sqrt(np.maximum(values, 0.0) + FLOOR * values.max())) @ vectors.T
    return {"shift": shift.astype(np.float32), "kernel": kernel.astype(np.float32)}
