"""The two products of an adapter, x A and (x A) B, with backward passes that suit what they are: thin.

Their gradients sum over all tokens, [r, tokens] by [tokens, D]. Written by the transposition rules, XLA's CPU backend
turns the wide operand over (D columns for r rows) and runs the product at a sixth of its speed; here the thin one is
turned, and behind a barrier, or it would be folded into the product again. Gradients of A and B are float32, whatever x
is.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def narrow(x: jax.Array, a: jax.Array) -> jax.Array:
    """x [..., *in] by A float32 [*in, r] -> [..., r] in x's dtype."""
    return jnp.tensordot(x, a.astype(x.dtype), axes=a.ndim - 1)


def _narrow_forward(x, a):
    return narrow(x, a), (x, a)


def _narrow_backward(kept, d_low):
    x, a = kept
    d_x = jnp.tensordot(d_low, jnp.moveaxis(a, -1, 0).astype(x.dtype), axes=1)
    d_a = jax.lax.optimization_barrier(_summed(d_low, x))  # [r, *in]
    return d_x, jnp.moveaxis(d_a, 0, -1)


narrow.defvjp(_narrow_forward, _narrow_backward)


@jax.custom_vjp
def widen(low: jax.Array, b: jax.Array) -> jax.Array:
    """low [..., r] by B float32 [r, *out] -> [..., *out] in low's dtype."""
    return jnp.tensordot(low, b.astype(low.dtype), axes=1)


def _widen_forward(low, b):
    return widen(low, b), (low, b)


def _widen_backward(kept, d_y):
    low, b = kept
    d_low = jnp.tensordot(d_y, jnp.moveaxis(b, 0, -1).astype(low.dtype), axes=b.ndim - 1)
    return d_low, _summed(low, d_y)


widen.defvjp(_widen_forward, _widen_backward)


def _summed(thin: jax.Array, wide: jax.Array) -> jax.Array:
    """thin [..., r] and wide [..., *shape] -> float32 [r, *shape], summed over the axes in front."""
    turned = jax.lax.optimization_barrier(jnp.moveaxis(thin, -1, 0))  # [r, ...]
    leading = thin.ndim - 1
    axes = (tuple(range(1, leading + 1)), tuple(range(leading)))
    return jnp.tensordot(turned, wide, axes=axes, preferred_element_type=jnp.float32)
