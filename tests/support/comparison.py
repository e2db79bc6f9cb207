"""Comparison of networks with recorded or computed reference values."""

import jax
import numpy as np

from empatheia_jax.testing.tiny import FAST


def relative_error(actual, expected) -> float:
    """Return the largest difference over the largest value of `expected`, in float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    assert np.isfinite(expected).all()
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def run_compiled(function, *arguments):
    """Run a function compiled with little optimisation, and return numpy arrays."""
    return jax.tree.map(np.asarray, jax.jit(function, compiler_options=FAST)(*arguments))


def channels_last(x: np.ndarray) -> np.ndarray:
    """Move the channels of torch's [B, C, ...] to the end."""
    return np.moveaxis(x, 1, -1)
