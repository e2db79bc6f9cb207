"""Print the collectives of compiled programs on eight devices: loops, unrolled loops, and explicit ones."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from empatheia_jax.planning.pods.collectives import find_collectives

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
LAYERS, MICRO_BATCHES = 5, 3


def place(*axes):
    return NamedSharding(mesh, P(*axes))


weights = jax.ShapeDtypeStruct((LAYERS, 64, 128), "float32", sharding=place(None, "fsdp", "tensor"))
rows = jax.ShapeDtypeStruct((MICRO_BATCHES, 16, 64), "float32", sharding=place(None, ("data", "fsdp")))


def layer(x, w):
    wide = jnp.tanh(jax.lax.with_sharding_constraint(x @ w, place(("data", "fsdp"), "tensor")))
    return jax.lax.with_sharding_constraint(jnp.tanh(wide @ w.T), place(("data", "fsdp")))


def scanned(w, x):
    def add_rows(total, rows):
        return total + jax.lax.scan(lambda x, w: (layer(x, w), None), rows, w)[0], None

    return jax.lax.scan(add_rows, jnp.zeros(x.shape[1:]), x)[0]


def unrolled(w, x):
    total = jnp.zeros(x.shape[1:])
    for rows in x:
        for number in range(LAYERS):
            # The barrier hides from XLA that the weights are the same: it must gather them again, as in a loop.
            w, rows = jax.lax.optimization_barrier((w, rows))
            rows = layer(rows, w[number])
        total = total + rows
    return total


def explicit(w, x):  # its collectives are written out
    def body(x, _):
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)
        return jax.lax.psum_scatter(jnp.tanh(jax.lax.psum(gathered, "tensor")), "fsdp", tiled=True), None

    return jax.lax.scan(body, x, length=7)[0] + jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])


results = {}
for name, function in (("scanned", scanned), ("unrolled", unrolled)):
    hlo = jax.jit(function, out_shardings=place(("data", "fsdp"))).lower(weights, rows).compile().as_text()
    sums = {}
    for collective in find_collectives(hlo, dict(mesh.shape)):
        key = f"{collective.kind} {collective.axes}"
        sums[key] = sums.get(key, 0) + collective.bytes_sent
    results[name] = sums
mapped = jax.shard_map(explicit, mesh=mesh, in_specs=(P(), P("fsdp")), out_specs=P("fsdp"), check_vma=False)
x = jax.ShapeDtypeStruct((8, 32), "float32", sharding=place("fsdp"))
hlo = jax.jit(mapped).lower(jnp.zeros(()), x).compile().as_text()
results["explicit"] = [[c.kind, c.axes, c.group, c.count, c.payload] for c in find_collectives(hlo, dict(mesh.shape))]
print(json.dumps(results))
