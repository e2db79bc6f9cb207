"""Whitening of the signal states r^s and r^v: centred, and of equal variance in every direction. Not in the paper.

Most of what r^s and r^v hold is the same in every Example (which of the 16 tokens it is) or large and of no use here
(how long the text was). Profile and emotion are linear in them but lie in directions of little variance, which a
disentangler that starts from random values needs thousands of Examples to find.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.model.shapes import Array, Float
from empatheia_jax.model.sharding import param

FLOOR = 1e-2  # of the largest variance: smaller ones are not blown up further


class Whitening(nnx.Module):
    """(r - shift) W, scaled to a root mean square of 1; set by `fit` when a stage begins, then trained."""

    def __init__(self, width: int):
        self.shift = param(jnp.zeros((2, SIGNALS, width)), "unsharded", "unsharded", "features")
        self.kernel = param(jnp.eye(width), "features", "features")

    def __call__(
        self, r_s: Float[Array, "K 16 D"], r_v: Float[Array, "K 16 D"]
    ) -> tuple[Float[Array, "K 16 D"], Float[Array, "K 16 D"]]:
        """Whiten r^s and r^v."""

        def whiten(r: Float[Array, "K 16 D"], shift: Float[Array, "16 D"]) -> Float[Array, "K 16 D"]:
            # What is of use lies in directions of little variance, beside large ones whose rounding would hide it.
            x = jnp.matmul(r - shift, self.kernel[...], precision="highest")
            # While the LLM trains, its states drift away from the shift; the scaling keeps the drift from dominating.
            return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)

        return whiten(r_s, self.shift[0]), whiten(r_v, self.shift[1])


def fit(speech: Float[np.ndarray, "n 16 D"], video: Float[np.ndarray, "n 16 D"]) -> dict[str, np.ndarray]:
    """Compute the whitening (ZCA) of the states of n Examples.

    Args:
      speech: r^s.
      video: r^v.

    Returns:
      {"shift": float32 [2, 16, D], "kernel": symmetric float32 [D, D]}.
    """
    states = np.stack([speech, video]).astype(np.float64)  # [2, n, 16, D]
    shift = states.mean(axis=1)
    centred = (states - shift[:, None]).reshape(-1, states.shape[-1])
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kernel = (vectors / np.sqrt(np.maximum(values, 0.0) + FLOOR * values.max())) @ vectors.T
    return {"shift": shift.astype(np.float32), "kernel": kernel.astype(np.float32)}
