"""Trace a sum over two devices: ... FOLDER."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from empatheia_jax.profiling.capture import traced

mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharded, replicated = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("data",), ()))
work = jax.jit(lambda x: jnp.sum(jnp.tanh(x), axis=0), out_shardings=replicated)
x = jax.device_put(jnp.ones((512, 512)), sharded)
jax.block_until_ready(work(x))
with traced(Path(sys.argv[1]), "a sum over devices"):
    jax.block_until_ready(work(x))
