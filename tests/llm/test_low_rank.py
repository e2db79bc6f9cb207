"""The adapters' matmuls and their custom backward passes against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.llm.lora import lora_down, lora_up


@pytest.mark.parametrize("shape_in, shape_out", [((8,), (3, 4)), ((3, 4), (8,)), ((8,), (8,))])
def test_gradients(seed, shape_in, shape_out):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 5, *shape_in)).astype(np.float32)
    a, b = rng.normal(size=(*shape_in, 2)).astype(np.float32), rng.normal(size=(2, *shape_out)).astype(np.float32)

    def adapter(x, a, b):
        return jnp.sum(jnp.sin(lora_up(lora_down(x, a), b)))

    def plain(x, a, b):
        return jnp.sum(jnp.sin(jnp.tensordot(jnp.tensordot(x, a, axes=len(shape_in)), b, axes=1)))

    np.testing.assert_allclose(adapter(x, a, b), plain(x, a, b), rtol=1e-6)
    expected = jax.grad(plain, argnums=(0, 1, 2))(x, a, b)
    for gradient, plain_gradient in zip(jax.grad(adapter, argnums=(0, 1, 2))(x, a, b), expected, strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, atol=1e-5)


def test_gradients_of_adapters_are_float32(seed):
    """Sums over many tokens, whatever the activations are computed in."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(3, 400, 8)), jnp.bfloat16)
    a, b = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32), jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)

    def loss(x, a, b):
        return jnp.sum(lora_up(lora_down(x, a), b).astype(jnp.float32))

    d_x, d_a, d_b = jax.grad(loss, argnums=(0, 1, 2))(x, a, b)
    assert (d_x.dtype, d_a.dtype, d_b.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = jax.grad(loss, argnums=1)(x.astype(jnp.float32), a, b)
    np.testing.assert_allclose(d_a, exact, atol=0.02 * np.abs(exact).max())
