"""The two matmuls of an adapter, x A and (x A) B, with backward passes written for their small rank.

Their gradients sum over all tokens, [r, tokens] by [tokens, D]. With JAX's own transposition rules, XLA's CPU backend
transposes the wide operand (D columns for r rows) and runs the matmul at a sixth of its speed; here the thin operand is
transposed, behind an optimization barrier, since XLA would otherwise fold the transposition into the matmul. Gradients
of A and B are float32, whatever x's dtype.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def lora_down(x: jax.Array, a: jax.Array) -> jax.Array:
    """Multiply x [..., *in] by A float32 [*in, r]: -> [..., r] in x's dtype."""
    return jnp.tensordot(x, a.astype(x.dtype), axes=a.ndim - 1)


def _lora_down_forward(x, a):
    return lora_down(x, a), (x, a)


def _lora_down_backward(residuals, d_low):
    x, a = residuals
    d_x = jnp.tensordot(d_low, jnp.moveaxis(a, -1, 0).astype(x.dtype), axes=1)
    d_a = jax.lax.optimization_barrier(_sum_over_tokens(d_low, x))  # [r, *in]
    return d_x, jnp.moveaxis(d_a, 0, -1)


lora_down.defvjp(_lora_down_forward, _lora_down_backward)


@jax.custom_vjp
def lora_up(low: jax.Array, b: jax.Array) -> jax.Array:
    """Multiply low [..., r] by B float32 [r, *out]: -> [..., *out] in low's dtype."""
    return jnp.tensordot(low, b.astype(low.dtype), axes=1)


def _lora_up_forward(low, b):
    return lora_up(low, b), (low, b)


def _lora_up_backward(residuals, d_y):
    low, b = residuals
    d_low = jnp.tensordot(d_y, jnp.moveaxis(b, 0, -1).astype(low.dtype), axes=b.ndim - 1)
    return d_low, _sum_over_tokens(low, d_y)


lora_up.defvjp(_lora_up_forward, _lora_up_backward)


def _sum_over_tokens(thin: jax.Array, wide: jax.Array) -> jax.Array:
    """Return thin [..., r] times wide [..., *shape], summed over the leading axes: float32 [r, *shape]."""
    transposed = jax.lax.optimization_barrier(jnp.moveaxis(thin, -1, 0))  # [r, ...]
    leading = thin.ndim - 1
    axes = (tuple(range(1, leading + 1)), tuple(range(leading)))
    return jnp.tensordot(transposed, wide, axes=axes, preferred_element_type=jnp.float32)
