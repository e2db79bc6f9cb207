"""Several processes of one run: joining them, agreeing among them, and the batch rows that each of them reads."""

import functools
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from empatheia_jax.config import ConfigError
from empatheia_jax.model import sharding
from empatheia_jax.runtime import peers

T = TypeVar("T")
_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join(cluster: bool = False, heartbeat: int = peers.HEARTBEAT) -> None:
    """Join the other processes of this run, if there are any. Call before any other function of JAX.

    The environment variables `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` name them; without these the run is a single process.

    Args:
      cluster: let JAX detect the processes by itself (SLURM, Open MPI, Kubernetes, TPU pods).
      heartbeat: seconds after which a process that does not answer ends the others (`peers`).
    Raises:
      ConfigError: only some of the three variables are set, or a number is malformed.
    """
    settings = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    if cluster:
        peers.exit_on_abort()
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    elif len(settings) == len(_ENVIRONMENT):
        address, *numbers = settings.values()
        if not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"{_ENVIRONMENT[1]} and {_ENVIRONMENT[2]} must be numbers, not {numbers}")
        peers.exit_on_abort()
        count, index = map(int, numbers)
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=heartbeat)
    elif len(settings) <= 1:  # some clusters set the address alone, for their own detection
        return
    else:
        raise ConfigError(f"of {', '.join(_ENVIRONMENT)} only {', '.join(settings)} are set: set all three or none")
    # With asynchronous dispatch two CPU processes may run two programs with collectives in different order: a deadlock.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def leave() -> None:
    """Shut down the connection once all processes are done, so that none takes the end of another for its loss."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def is_first() -> bool:
    """Return whether this is the process that writes the files shared by all."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this with the same `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def log_on_first(text: str) -> None:
    """Print, in the first process alone."""
    if is_first():
        print(text, flush=True)


def run_on_first(name: str, function: Callable[[], None]) -> None:
    """Call `function` in the first process, while the others wait for it at the barrier `name`."""
    if is_first():
        function()
    wait_for_all(name)


def any_process(flag: bool) -> bool:
    """Return whether `flag` is true in any process. All processes must call this at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def allgather(values: np.ndarray) -> np.ndarray:
    """Gather float32 [n] of each process into float32 [processes, n], the same in all."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values.astype(np.float32)))


def any_process_each(flags: np.ndarray) -> np.ndarray:
    """Return `any_process` of each element of `flags`, bool [n]."""
    if jax.process_count() == 1:
        return flags
    return np.any(np.asarray(multihost_utils.process_allgather(flags)), axis=0)


@functools.cache  # called for every batch
def local_rows(mesh: jax.sharding.Mesh, rows: int) -> range:
    """Return which of a batch's `rows` rows this process's devices hold (`sharding.batch_sharding`).

    Raises:
      ConfigError: the mesh does not divide the rows, or gives this process rows that are not contiguous.
    """
    sharding.rows_per_shard(rows, mesh)
    held = sharding.batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    numbers = sorted({number for index in held if index for number in range(rows)[index[0]]})
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise ConfigError(f"mesh {dict(mesh.shape)}: a process holds rows {numbers}, which do not follow one another")
    return range(numbers[0], numbers[-1] + 1)


def global_batch(local: T, mesh: jax.sharding.Mesh, rows: int, leading: int = 1) -> T:
    """Build the arrays of the whole batch, placed on the mesh, from those of each process's `local_rows`.

    Args:
      local: tree of arrays of this process's rows, such as a `Batch`.
      mesh: mesh of the run.
      rows: rows of the whole batch.
      leading: number of axes before the batch axis: 1 with an accumulation axis, else 0.

    Returns:
      The same tree, of the whole batch's arrays.
    """
    placement = sharding.batch_sharding(mesh, leading)
    held = len(local_rows(mesh, rows))

    def assemble(array: np.ndarray) -> jax.Array:
        shape = list(array.shape)
        shape[leading] = shape[leading] // held * rows
        return jax.make_array_from_process_local_data(placement, array, tuple(shape))

    return jax.tree.map(assemble, local)


def gather_to_host(arrays, mesh: jax.sharding.Mesh):
    """Return an array, or a tree of arrays, that is sharded over the processes as numpy arrays in each of them."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=sharding.replicated_sharding(mesh))(arrays))


def local_part(array: jax.Array) -> np.ndarray:
    """Return the rows that this process holds of an array sharded along its first axis, in order, each shard once."""
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
