"""Several processes that are one run: joining them, agreeing, and which rows of a batch each of them reads."""

import functools
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from empatheia_jax import peers, sharding
from empatheia_jax.config import ConfigError

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join(cluster: bool = False, heartbeat: int = peers.HEARTBEAT) -> None:
    """Join the other processes of this run; alone where nothing says that there are any. Call before any other JAX.

    Told by the environment: `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`.

    Args:
      cluster: let JAX find them out by itself (SLURM, Open MPI, Kubernetes, TPU pods).
      heartbeat: seconds after which a process that does not answer ends the others (`peers`).
    Raises:
      ConfigError: only some of the three are set, or one is no number.
    """
    given = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    if cluster:
        peers.end_on_abort()
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    elif len(given) == len(_ENVIRONMENT):
        address, *numbers = given.values()
        if not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"{_ENVIRONMENT[1]} and {_ENVIRONMENT[2]} must be numbers, not {numbers}")
        peers.end_on_abort()
        jax.distributed.initialize(address, *map(int, numbers), heartbeat_timeout_seconds=heartbeat)
    elif len(given) <= 1:  # the address alone is what some clusters set for their own detection
        return
    else:
        raise ConfigError(f"of {', '.join(_ENVIRONMENT)} only {', '.join(given)} are set: set all three or none")
    # On CPU two programs that talk between processes may otherwise run in another order in each, and wait for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def leave() -> None:
    """Wait for the others and part from them, so that none mistakes the end of one for its death."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def first() -> bool:
    """Whether this process is the one that writes what all share."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def say(text: str) -> None:
    """Print, in the process that speaks for all."""
    if first():
        print(text, flush=True)


def by_first(name: str, make: Callable[[], None]) -> None:
    """`make` in the first process; the others wait until it is done."""
    if first():
        make()
    wait(name)


def any_of(wish: bool) -> bool:
    """Whether any process wishes it; all must ask at the same place."""
    if jax.process_count() == 1:
        return wish
    return bool(multihost_utils.process_allgather(np.array(wish)).any())


def of_each(values: np.ndarray) -> np.ndarray:
    """Float32 values [n] of this process -> those of all, [processes, n], the same everywhere."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values.astype(np.float32)))


def any_of_each(wishes: np.ndarray) -> np.ndarray:
    """`any_of` of each of bool [n]."""
    if jax.process_count() == 1:
        return wishes
    return np.asarray(multihost_utils.process_allgather(wishes)).any(axis=0)


@functools.cache  # asked for with every batch
def local_rows(mesh: jax.sharding.Mesh, rows: int) -> range:
    """Which of `rows` rows of a batch this process's devices hold (`sharding.batch_sharding`).

    Raises:
      ConfigError: the mesh does not divide them, or has this process hold rows that do not follow one another.
    """
    shares = int(np.prod([mesh.shape[axis] for axis in sharding.BATCH_AXES]))
    if rows % shares:
        raise ConfigError(f"data.rows {rows} is not divisible by the mesh's data x fsdp, {shares}")
    held = sharding.batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    numbers = sorted({number for (part,) in held for number in range(rows)[part]})
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise ConfigError(f"mesh {dict(mesh.shape)}: a process holds rows {numbers}, which do not follow one another")
    return range(numbers[0], numbers[-1] + 1)


def global_batch(local: dict[str, np.ndarray], mesh: jax.sharding.Mesh, rows: int, leading: int = 1):
    """Arrays of this process's `local_rows` -> arrays of the whole batch of `rows` rows, each part on its devices.

    Args:
      leading: 1 where an accumulation axis comes first, else 0.
    """
    where = sharding.batch_sharding(mesh, leading)
    held = len(local_rows(mesh, rows))

    def whole(array: np.ndarray) -> jax.Array:
        shape = list(array.shape)
        shape[leading] = shape[leading] // held * rows
        return jax.make_array_from_process_local_data(where, array, tuple(shape))

    return {name: whole(array) for name, array in local.items()}


def everywhere(arrays, mesh: jax.sharding.Mesh):
    """An array, or a tree of them, that is spread over the processes, as numpy in each of them."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(arrays))


def local_part(array: jax.Array) -> np.ndarray:
    """What of an array spread by its first axis this process holds, in order, each part once."""
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
