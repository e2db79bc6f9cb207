"""Print the plan of a small model on eight GPUs, the change that a smaller memory asks for, and errors."""

import dataclasses
import json

from empatheia_jax.config import ConfigError, MeshConfig
from empatheia_jax.planning.pods import report
from empatheia_jax.planning.pods.changes import find_smallest_change
from empatheia_jax.planning.pods.plan import make_plan, plan_memory
from empatheia_jax.planning.pods.topologies import find_topology
from empatheia_jax.testing.tiny import replace_fields
from support.small_pod import pod_config

topology = find_topology("gpu:8")
config = dataclasses.replace(
    pod_config(MeshConfig(2, 2, 2), attention="cudnn"),
    optim=dataclasses.replace(pod_config(MeshConfig()).optim, accumulate=3),
)
plan = make_plan(config, 4, topology)
results = {"plan": report.facts(plan), "text": report.text(plan)}
results["arguments"] = [plan.compiled_memory.arguments, plan.estimated_memory.arguments]
small = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, memory=int(plan.peak * 0.8)))
change = find_smallest_change(config, 4, small, dataclasses.replace(plan, topology=small))
results["change"] = report.verdict(dataclasses.replace(plan, topology=small), change)
tiny = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, memory=1000))
results["hopeless"] = find_smallest_change(config, 4, tiny, dataclasses.replace(plan, topology=tiny)) is None
for name, changed, stage in (
    ("rows", replace_fields(config, "data", rows=6), 4),
    ("stage", config, 0),
    ("heads", replace_fields(config, "llm", heads=6, kv_heads=3), 4),
):
    try:
        plan_memory(changed, stage, topology)
    except ConfigError as error:
        results[name] = str(error)
print(json.dumps(results))
