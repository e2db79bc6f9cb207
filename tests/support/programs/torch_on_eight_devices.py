"""Check a torch function in a sharded step on eight devices, with its gradients: ... SEED."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from empatheia_jax.generators.bridge import BridgeError, from_torch

assert len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
shapes = []


def function(x, w):
    shapes.append(tuple(x.shape))
    return torch.tanh(x @ w)


bridged = from_torch(function)
rng = np.random.default_rng(int(sys.argv[1]))
x, w = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
batch_spec = P(("data", "fsdp"))
sharded = jax.device_put(x, NamedSharding(mesh, batch_spec))
per_shard = jax.shard_map(bridged, mesh=mesh, in_specs=(batch_spec, P()), out_specs=batch_spec)


@jax.jit
def step(x, w):
    def loss(x, w):
        return (per_shard(x, w) ** 2).sum()

    return loss(x, w), jax.grad(loss, argnums=(0, 1))(x, w), per_shard(x, w)


text = step.lower(sharded, w).compile().as_text()
assert "all-gather" not in text, "gathered"
value, (slope_x, slope_w), result = step(sharded, w)
assert set(shapes) == {(2, 6)}, set(shapes)
assert result.sharding.is_equivalent_to(NamedSharding(mesh, batch_spec), 2)


def plain(x, w):
    return (jnp.tanh(x @ w) ** 2).sum()


expected, (expected_x, expected_w) = jax.value_and_grad(plain, argnums=(0, 1))(x, w)
np.testing.assert_allclose(value, expected, rtol=1e-5)
np.testing.assert_allclose(slope_x, expected_x, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(slope_w, expected_w, rtol=1e-4, atol=1e-5)
try:
    from_torch(torch.tanh)(sharded)
except BridgeError as error:
    assert "jax.shard_map" in str(error)
else:
    raise AssertionError("an array in eight parts was gathered")
everywhere = jax.device_put(w, NamedSharding(mesh, P()))
np.testing.assert_array_equal(from_torch(torch.tanh)(everywhere), torch.tanh(torch.from_numpy(w)).numpy())
print("passed")
