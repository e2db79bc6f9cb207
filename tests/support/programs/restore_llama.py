"""Restore a converted Llama onto a mesh and print memory and time as JSON: ... FOLDER FSDP TENSOR.

With COORDINATOR, PROCESSES and RANK in the environment it is one of several processes.
"""

import hashlib
import json
import os
import sys
import threading
import time


def anonymous_memory() -> int:
    """Return the bytes of this process that no file backs."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def main(folder: str, fsdp: int, tensor: int) -> dict:
    import jax

    if "COORDINATOR" in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(os.environ["COORDINATOR"], int(os.environ["PROCESSES"]), int(os.environ["RANK"]))
    import numpy as np
    from flax import nnx

    from empatheia_jax.checkpoints import weights
    from empatheia_jax.config import MeshConfig
    from empatheia_jax.config.load import load_llm_config
    from empatheia_jax.llm.llama import Llama
    from empatheia_jax.model import sharding

    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=fsdp, tensor=tensor))
    abstract = nnx.state(nnx.eval_shape(lambda: Llama(load_llm_config(folder), rngs=nnx.Rngs(0))))
    placed = sharding.with_shardings(abstract, sharding.shardings(abstract, mesh))
    peak, done = [anonymous_memory()], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    state = jax.block_until_ready(weights.load_weights(folder, placed))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    leaves, held = dict(nnx.to_flat_state(state)), {}
    misplaced = []
    for path, expected in nnx.to_flat_state(sharding.shardings(abstract, mesh)):
        array = leaves[path][...]
        if not array.sharding.is_equivalent_to(expected.get_value(), array.ndim):
            misplaced.append(str(path))
        for shard in array.addressable_shards:
            held[str(shard.device.id)] = held.get(str(shard.device.id), 0) + shard.data.nbytes
            if shard.replica_id == 0 and os.environ.get("SHARDS"):
                place = [[s.start or 0, s.stop or n] for s, n in zip(shard.index, array.shape, strict=True)]
                content = np.asarray(shard.data, np.float32).tobytes()
                held_shards.append(["/".join(map(str, path)), place, hashlib.sha256(content).hexdigest()])
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return {
        "seconds": seconds,
        "peak": peak[0],
        "total": total,
        "held": held,
        "misplaced": misplaced,
        "shards": held_shards,
    }


held_shards: list = []

if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))), flush=True)
    if int(os.environ.get("PROCESSES", "1")) > 1:
        from jax.experimental import multihost_utils

        # The first process is the coordinator: processes that are alive after it are killed.
        multihost_utils.sync_global_devices("printed")
        time.sleep(0 if int(os.environ["RANK"]) else 3)
    os._exit(0)
