"""The table from logical axes to the mesh, and its errors."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from empatheia_jax.config import MeshConfig
from empatheia_jax.model.sharding import MESH_AXES, ShardingError, make_mesh, param, partition_spec


def mesh(data, fsdp, tensor):
    """Return a mesh of these sizes, without devices."""
    return AbstractMesh((data, fsdp, tensor), MESH_AXES)


def test_tensor_lands_on_heads_and_mlp():
    assert partition_spec(("layers", "embed", "heads", "head_dim"), (4, 128, 8, 16), mesh(2, 2, 2)) == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert partition_spec(("layers", "embed", "mlp"), (4, 128, 256), mesh(2, 2, 2)) == PartitionSpec(
        None, "fsdp", "tensor"
    )


def test_errors_name_the_parameter():
    with pytest.raises(ShardingError, match=r"llm/q_proj .*'heads' of 3 .*'tensor' of 2"):
        partition_spec(("embed", "heads"), (8, 3), mesh(1, 1, 2), "llm/q_proj")
    with pytest.raises(ShardingError, match="llm/odd .*'tensor' is claimed twice"):
        partition_spec(("mlp", "heads"), (8, 8), mesh(1, 1, 2), "llm/odd")
    with pytest.raises(ShardingError, match=r"llm/new .*'width'.* not in sharding.RULES"):
        partition_spec(("width", "heads"), (8, 8), mesh(1, 1, 2), "llm/new")
    with pytest.raises(ShardingError, match=r"llm/short \(8, 8\): 1 axis names"):
        partition_spec(("heads",), (8, 8), mesh(1, 1, 2), "llm/short")
    with pytest.raises(ShardingError, match="not in sharding.RULES"):
        param(np.zeros((2, 2)), "embed", "nonsense")
    with pytest.raises(ShardingError, match="1 axis names"):
        param(np.zeros((2, 2)), "embed")


def test_mesh_covers_the_devices():
    assert isinstance(make_mesh(MeshConfig(), jax.devices()[:1]), Mesh)
    with pytest.raises(ShardingError, match="does not cover"):
        make_mesh(MeshConfig(data=3), jax.devices()[:1])
    with pytest.raises(ShardingError, match="only one axis"):
        make_mesh(MeshConfig(data=-1, fsdp=-1), jax.devices()[:1])
