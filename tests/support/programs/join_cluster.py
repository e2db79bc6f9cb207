"""Join the processes of a cluster and print index, number of processes, and whether any is the second."""

import jax

from empatheia_jax.runtime import processes

processes.join(cluster=True, heartbeat=20)
print(jax.process_index(), jax.process_count(), processes.any_process(jax.process_index() == 1), flush=True)
processes.leave()
