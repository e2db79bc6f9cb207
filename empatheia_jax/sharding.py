"""Where every array lives: mesh axes `data x fsdp x tensor` and ONE table from logical axis names to them.

Parameters are born with logical axis names and no mesh (so models build anywhere); `shardings` turns the names into
`NamedSharding`s from abstract shapes, and `place` moves or makes arrays there once.
"""

import math

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from empatheia_jax.config import ConfigError, MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "lora_rank": None,
    "layers": None,
    "latent": "fsdp",  # width of the latents and projectors
    "latent_heads": "tensor",
    "latent_mlp": "tensor",
    "features": None,  # widths that encoders and generators set
    "rows": None,  # small tables: new tokens, phonemes, queries
}
BATCH_AXES = ("data", "fsdp")


class ShardingError(ConfigError):
    """A parameter that cannot be laid out as asked: names it, its shape and the mesh."""


def param(value: jax.Array, *axes: str, kind: type[nnx.Param] = nnx.Param) -> nnx.Param:
    """A parameter with one logical axis name a dimension; needs no mesh.

    Raises:
      ShardingError: when the names do not match the array's rank or are not in the table.
    """
    if len(axes) != value.ndim:
        raise ShardingError(f"{len(axes)} axis names {axes} for an array of shape {value.shape}")
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        raise ShardingError(f"logical axes {unknown} are not in sharding.RULES: add them there")
    return kind(value, out_sharding=axes, eager_sharding=False)


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
    """Mesh over all devices of all processes; one axis may be -1 (the rest).

    Raises:
      ShardingError: when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1:
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))}: only one axis can be -1")
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices):
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} does not cover {len(devices)} devices")
    # An axis may be a part of one of a TPU's physical axes: 8 x 8 x 16 chips also serve fsdp 8 and tensor 4.
    grid = mesh_utils.create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, name: str = "") -> PartitionSpec:
    """Logical axis names of one array -> PartitionSpec on `mesh`; None leaves a dimension whole.

    `name` is the parameter's, for the error.

    Raises:
      ShardingError: when two dimensions claim one mesh axis, a dimension is not divisible by its axis, or the names are
        too many, too few or not in the table.
    """
    if len(axes) != len(shape):
        raise ShardingError(f"{name} {shape}: {len(axes)} axis names {axes}")
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise ShardingError(f"{name} {shape}: logical axes {unknown} are not in sharding.RULES: add them there")
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        target = RULES[axis] if axis is not None else None
        if target is not None and mesh.shape[target] > 1:
            if target in spec:
                raise ShardingError(f"{name} {shape} {axes}: mesh axis {target!r} is claimed twice")
            if size % mesh.shape[target]:
                raise ShardingError(
                    f"{name} {shape}: dimension {axis!r} of {size} is not divisible by mesh axis {target!r} of "
                    f"{mesh.shape[target]}; choose another mesh or width"
                )
        spec.append(target)
    return PartitionSpec(*spec)


def shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """NamedSharding of every variable of a (possibly abstract) state; unnamed variables are replicated.

    Raises:
      ShardingError: as `partition_spec`, naming the parameter.
    """

    def of(path, variable):
        axes = variable.get_metadata().get("out_sharding") or ()
        value = variable.get_value() if hasattr(variable, "get_value") else variable
        axes = axes or (None,) * len(value.shape)
        name = "/".join(str(part) for part in path)
        return variable.replace(NamedSharding(mesh, partition_spec(tuple(axes), value.shape, mesh, name)))

    flat = [(path, of(path, variable)) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)


def place(state: nnx.State, mesh: Mesh) -> nnx.State:
    """Put every array of `state` where the table says.

    Raises:
      ShardingError: as `partition_spec`.
    """
    return jax.device_put(state, shardings(state, mesh))


def placed(shapes, places):
    """A tree of shapes -> `jax.ShapeDtypeStruct`s that also say where: `places` has a sharding a leaf."""

    def one(leaf, where):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(one, shapes, places)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Sharding of a batch array: its first axis (after `leading` unsharded ones) over `data` and `fsdp`.

    Every array of a `schema.Batch` has rows first (B, or K and M as multiples of B), so one sharding serves all;
    `leading` is 1 where an accumulation axis comes before.
    """
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, BATCH_AXES))


def active_mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh of several devices that is being traced for (`jax.set_mesh`); None: there is none, or it is not ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == MESH_AXES and mesh.size > 1 else None


def keep_rows(x: jax.Array) -> jax.Array:
    """`x` [B, ...] with its rows over `data` and `fsdp` and every other axis whole; itself where no mesh is active.

    Weights are split over `fsdp` by their width: without a word XLA may split the activations so too, and then every
    device works on all rows.
    """
    mesh = active_mesh()
    if mesh is None or x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def gathered(weight: jax.Array, *axes: str) -> jax.Array:
    """A parameter with these logical axes (the last ones of them, inside a scan) as a product or a lookup wants it:
    whole over `fsdp`, split over `tensor` as it lies; itself where no mesh is active.

    A lookup in a table that is split by its width gives rows split by width, which XLA can only turn into rows of the
    batch by having all of them everywhere; and where weights are small it may rather multiply by its shard of them,
    with the same end. Both grow with the pod.
    """
    if active_mesh() is None:
        return weight
    split = (RULES[axis] for axis in axes[len(axes) - weight.ndim :])
    return jax.lax.with_sharding_constraint(weight, PartitionSpec(*(None if to == "fsdp" else to for to in split)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())
