"""Print the plan of a small model on four TPUs, and the number of kernels lowered for them."""

import json

from empatheia_jax.config import MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.planning.pods import report
from empatheia_jax.planning.pods.plan import make_plan, trace_stage
from empatheia_jax.planning.pods.topologies import find_topology
from support.small_pod import pod_config

topology = find_topology("v5e:2x2")
config = pod_config(
    MeshConfig(1, 2, 2),
    attention="splash",
    compute_dtype="bfloat16",
    param_dtype="bfloat16",
    heads=2,
    kv_heads=2,
    head_dim=128,
    remat="lora",
)
plan = make_plan(config, 4, topology)
mesh = sharding.make_mesh(config.mesh, list(topology.devices))
traced, _, _ = trace_stage(config, 4, mesh)
print(json.dumps(report.facts(plan) | {"kernels": traced.lower().as_text().count("tpu_custom_call")}))
