"""Print for every kind of TPU the number of devices of a topology, and whether they are of that kind."""

import json

from empatheia_jax.planning.pods.topologies import CHIPS, find_topology

facts = {}
for kind, chip in CHIPS.items():
    if chip.links:
        topology = find_topology(f"{kind}:" + "x".join(["4"] * (chip.links // 2)))
        facts[kind] = [len(topology.devices), topology.devices[0].device_kind == chip.kind]
print(json.dumps(facts))
