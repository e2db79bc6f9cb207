"""The sharding of every array: mesh axes `data x fsdp x tensor`, and one table from logical axis names to them.

Parameters are created with logical axis names and without a mesh, so models build anywhere; `shardings` turns the
names into `NamedSharding`s from abstract shapes, and `place` puts arrays there.
"""

import contextlib
import math

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from empatheia_jax.config import ConfigError, MeshConfig
from empatheia_jax.model.shapes import Array

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
    "unsharded": None,  # small axes: entries of tables (phonemes, positions, queries), taps of convolutions
}
BATCH_AXES = ("data", "fsdp")


class ShardingError(ConfigError):
    """A parameter or a mesh cannot be laid out as asked; names it, its shape and the mesh."""


def param(value: Array, *axes: str, kind: type[nnx.Param] = nnx.Param) -> nnx.Param:
    """Create a parameter with one logical axis name a dimension; needs no mesh.

    Raises:
      ShardingError: the names do not match the array's rank or are not in the table.
    """
    if len(axes) != value.ndim:
        raise ShardingError(f"{len(axes)} axis names {axes} for an array of shape {value.shape}")
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        raise ShardingError(f"logical axes {unknown} are not in sharding.RULES: add them there")
    return kind(value, out_sharding=axes, eager_sharding=False)


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
    """Make the mesh over all devices of all processes; one axis may be -1 (the rest).

    Raises:
      ShardingError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if min(sizes) < -1 or 0 in sizes:
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))}: a size is 1 or more, or -1 for the rest")
    if sizes.count(-1) > 1:
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))}: only one axis can be -1")
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices):
        raise ShardingError(f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} does not cover {len(devices)} devices")
    # An axis may be a part of one of a TPU's physical axes: 8 x 8 x 16 chips also allow fsdp 8 and tensor 4.
    grid = mesh_utils.create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def partition_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh, name: str = ""
) -> PartitionSpec:
    """Turn the logical axis names of one array into its PartitionSpec.

    Args:
      axes: one name a dimension; None leaves it unsharded.
      shape: of the array.
      mesh: to be placed on.
      name: of the parameter, for the error.

    Raises:
      ShardingError: two dimensions claim one mesh axis, a dimension is not divisible by its axis, or the names are too
        many, too few or not in the table.
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
    """Return the NamedSharding of every variable of a (possibly abstract) state; unnamed variables are replicated.

    Raises:
      ShardingError: as `partition_spec`, naming the parameter.
    """

    def variable_sharding(path, variable):
        axes = variable.get_metadata().get("out_sharding") or ()
        value = variable.get_value() if hasattr(variable, "get_value") else variable
        axes = axes or (None,) * len(value.shape)
        name = "/".join(str(part) for part in path)
        return variable.replace(NamedSharding(mesh, partition_spec(tuple(axes), value.shape, mesh, name)))

    flat = [(path, variable_sharding(path, variable)) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(flat)


def place(state: nnx.State, mesh: Mesh) -> nnx.State:
    """Put every array of `state` where the table says.

    Raises:
      ShardingError: as `partition_spec`.
    """
    return jax.device_put(state, shardings(state, mesh))


def with_shardings(shapes, shardings):
    """Turn a tree of shapes into `jax.ShapeDtypeStruct`s with the shardings of another tree."""

    def with_sharding(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(with_sharding, shapes, shardings)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Return the sharding of a batch array: its first axis (after `leading` unsharded ones) over `data` and `fsdp`.

    Every array of a `Batch` has batch rows first (B, or K and M as multiples of B), so one sharding serves all;
    `leading` is 1 where an accumulation axis comes before.
    """
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, BATCH_AXES))


def rows_per_shard(rows: int, mesh: Mesh) -> int:
    """Return how many of a micro-batch's `rows` each device along `data` and `fsdp` has.

    Raises:
      ShardingError: the mesh does not divide the rows.
    """
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % shares:
        raise ShardingError(f"data.rows {rows} is not divisible by the mesh's data x fsdp, {shares}")
    return rows // shares


def mesh_of(state: nnx.State) -> Mesh | None:
    """Return the mesh of several devices that parameters lie on; None where they lie on one device."""
    for leaf in jax.tree.leaves(state):
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)  # arrays on one device or on the host have none
        if isinstance(mesh, Mesh) and mesh.axis_names == MESH_AXES:
            return mesh if mesh.size > 1 else None
    return None


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Make a mesh the active one of a `with` block; None: of one device, where nothing is to be placed."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def active_mesh() -> AbstractMesh | None:
    """Return the mesh of `jax.set_mesh` if it has `MESH_AXES` and several devices, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == MESH_AXES and mesh.size > 1 else None


def shard_rows(x: Array) -> Array:
    """Constrain `x` [B, ...] to have its batch rows over `data` and `fsdp`, every other axis unsharded.

    Weights are split over `fsdp` by their width: without the constraint XLA may split the activations so too, and then
    every device works on all rows. Returns `x` itself where no mesh is active.
    """
    mesh = active_mesh()
    if mesh is None or x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def gather_weight(weight: Array, *axes: str) -> Array:
    """Gather a parameter over `fsdp` before a product or a lookup; it stays split over `tensor`.

    A lookup in a table that is split by its width gives embeddings split by width, which XLA can only turn into batch
    rows by gathering all of them on every device; and where weights are small, XLA may multiply by its shard of them,
    with the same result. Both grow with the pod.

    Args:
      weight: the parameter.
      axes: its logical axis names; inside a scan the last ones of them count.

    Returns:
      The parameter with that sharding constraint; itself where no mesh is active.
    """
    if active_mesh() is None:
        return weight
    targets = (RULES[axis] for axis in axes[len(axes) - weight.ndim :])
    return jax.lax.with_sharding_constraint(weight, PartitionSpec(*(None if t == "fsdp" else t for t in targets)))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a value that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())
