"""Print what a sweep of meshes on four GPUs tries and keeps."""

import dataclasses
import json

from empatheia_jax.config import MeshConfig
from empatheia_jax.planning.pods.sweep import candidates, step_rows, sweep_meshes, sweep_text
from empatheia_jax.planning.pods.topologies import find_topology
from support.small_pod import pod_config

topology = find_topology("gpu:4")
config = pod_config(MeshConfig(1, 2, 2))
estimated = candidates(config, 4, topology)
compiled = sweep_meshes(config, 4, topology)
print(
    json.dumps(
        {
            "wanted": step_rows(config, 4),
            "meshes": sorted({tuple(dataclasses.astuple(c.config.mesh)) for c in estimated}),
            "fewest": min(step_rows(c.config, 4) for c in estimated),
            "best_estimate": max(
                c.tokens_per_second for c in estimated if step_rows(c.config, 4) == step_rows(config, 4)
            ),
            "compiled": [
                {
                    "rows": step_rows(c.config, 4),
                    "flags": c.flags,
                    "fits": c.plan.fits,
                    "mesh": c.plan.mesh,
                    "estimate": c.tokens_per_second,
                    "rate": c.compiled_rate,
                }
                for c in compiled
            ],
            "text": sweep_text(compiled, topology),
        }
    )
)
