"""Print the memory that the stages of a config need on a machine: ... CONFIG TOPOLOGY STAGES (as "1234")."""

import json
import sys

from empatheia_jax.config.load import load_config
from empatheia_jax.planning.pods.plan import plan_memory
from empatheia_jax.planning.pods.topologies import find_topology

config = load_config(sys.argv[1])
topology = find_topology(sys.argv[2])
peaks = {n: plan_memory(config, n, topology).peak for n in map(int, sys.argv[3])}
print(json.dumps({"peaks": peaks, "memory": topology.memory, "name": config.name}))
