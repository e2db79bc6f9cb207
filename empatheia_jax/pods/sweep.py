"""Which mesh and how many rows: all by hand, the best few compiled.

By hand: `memory_model` for what fits, and the network of a sharded Llama for how long a step takes. What is compiled
then replaces the guess.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import numpy as np

from empatheia_jax import flops, sharding
from empatheia_jax.config import Config, ConfigError, MeshConfig
from empatheia_jax.plan import config_widths
from empatheia_jax.pods.collectives import Collective
from empatheia_jax.pods.memory_model import modelled, shard_bytes
from empatheia_jax.pods.plan import Plan, batch_of, full_load, incoming, make_plan, moved_to, stage_config
from empatheia_jax.pods.roofline import estimate
from empatheia_jax.pods.topologies import Topology
from empatheia_jax.training.stages import Stage, stage

MARGIN = 0.87  # of a chip's memory that may be full by hand: compilers take more
COMPILED = 3  # of the best with the config's batch that are compiled
TENSOR = 8  # most devices along `tensor`
ROWS = (1, 2, 4, 8, 16)  # of a micro-batch on a device along data x fsdp


@dataclasses.dataclass(frozen=True)
class Try:
    """A mesh and a batch: `seconds` a step and `tokens_per_second` a chip by hand, `plan` once it is compiled."""

    flags: list[str]
    config: Config
    seconds: float
    tokens_per_second: float
    peak: int
    plan: Plan | None = None

    @property
    def compiled_rate(self) -> float:
        return self.plan.tokens / self.plan.chips / self.plan.estimate.overlapped


def step_rows(config: Config, number: int) -> int:
    """Rows of one update of the optimizer."""
    return stage_config(config, number).data.rows * config.optim.accumulate


def try_meshes(
    config: Config, number: int, topology: Topology, say: Callable[[str], None] = lambda text: None
) -> list[Try]:
    """The best few of `candidates` that learn from as many rows a step as the config does, compiled, best first.

    Those that turn out not to fit come last. After them comes the best with a larger batch, where that is quicker: what
    it learns is another matter.

    Args:
      say: told what begins; compiling takes minutes each.
    Raises:
      ConfigError: nothing fits by hand.
    """
    say(f"weighing meshes, rows and remat for {topology.name} by hand")
    found = sorted(candidates(config, number, topology), key=lambda one: -one.tokens_per_second)
    if not found:
        raise ConfigError(f"{config.name} on {topology.name}: no mesh and batch fits: take more chips")
    rows = step_rows(config, number)
    same = [one for one in found if step_rows(one.config, number) == rows][:COMPILED]
    larger = [] if found[0] in same else found[: 1 if same else COMPILED]
    todo, started = len(same) + len(larger), time.monotonic()
    say(f"{len(found)} fit, {todo} are compiled")

    def compiled(tries: list[Try], done: int) -> list[Try]:
        made = []
        for one in tries:
            at = done + len(made)
            left = f", {(todo - at) * (time.monotonic() - started) / at:.0f} s to go" if at else ""
            say(f"{at + 1} of {todo}{left}: {' '.join(one.flags)}")
            made.append(dataclasses.replace(one, plan=make_plan(one.config, number, topology, say)))
        return sorted(made, key=lambda one: (not one.plan.fits, -one.compiled_rate))

    return compiled(same, 0) + compiled(larger, len(same))


def candidates(config: Config, number: int, topology: Topology) -> list[Try]:
    """Every mesh of powers of two, rows and remat that fits by hand, with the config's rows a step or more."""
    count, found, wanted = len(topology.devices), [], step_rows(config, number)
    model, current = None, stage(number, config)
    for mesh_config in _meshes(count):
        try:
            mesh = sharding.make_mesh(mesh_config, list(topology.devices))
            shares = mesh_config.data * mesh_config.fsdp
            model = model or incoming(config, number, mesh)
            trainable, frozen = moved_to(model, current, mesh)
        except ConfigError:
            continue  # a dimension that this mesh does not divide
        for remat in ("lora", "full"):
            for rows in ROWS:
                accumulate = -(-wanted // (rows * shares))
                tried = _with(config, number, mesh_config, rows * shares, accumulate, remat)
                one = _weigh(tried, number, topology, mesh, trainable, frozen)
                if one is not None:
                    found.append(one)
    return found


def _meshes(count: int) -> list[MeshConfig]:
    sizes = [2**power for power in range(count.bit_length()) if count % 2**power == 0]
    return [
        MeshConfig(count // (fsdp * tensor), fsdp, tensor)
        for tensor in sizes
        if tensor <= TENSOR
        for fsdp in sizes
        if count % (fsdp * tensor) == 0
    ]


def _with(config: Config, number: int, mesh: MeshConfig, rows: int, accumulate: int, remat: str) -> Config:
    settings = dataclasses.replace(config.stages[str(number)], rows=rows)
    return dataclasses.replace(
        config,
        mesh=mesh,
        llm=dataclasses.replace(config.llm, remat=remat),
        stages=config.stages | {str(number): settings},
        optim=dataclasses.replace(config.optim, accumulate=accumulate),
    )


def _weigh(config: Config, number: int, topology: Topology, mesh, trainable, frozen) -> Try | None:
    shaped, current, batch = batch_of(config, number, mesh)
    memory = modelled(shaped, current, trainable, frozen, batch, mesh)
    if memory.peak > MARGIN * topology.memory:
        return None
    load, widths = full_load(shaped, current), config_widths(config)
    model, again = flops.training_step(shaped, current, widths, load), flops.recomputed(shaped, current, load)
    network = modelled_collectives(shaped, current, trainable, frozen, mesh)
    seconds = estimate(shaped, current, model, again, network, memory, topology, mesh).overlapped
    sizes, optim = config.mesh, config.optim
    flags = [
        "--mesh.data",
        sizes.data,
        "--mesh.fsdp",
        sizes.fsdp,
        "--mesh.tensor",
        sizes.tensor,
        f"--stages.{number}.rows",
        shaped.data.rows,
        "--optim.accumulate",
        optim.accumulate,
        "--llm.remat",
        config.llm.remat,
    ]
    rate = load.tokens / mesh.devices.size / seconds
    return Try([str(word) for word in flags], config, seconds, rate, memory.peak)


def modelled_collectives(config: Config, current: Stage, trainable, frozen, mesh) -> list[Collective]:
    """What a sharded step has to say at least: weights gathered, gradients reduced, sums over `tensor`."""
    data, fsdp, tensor = (mesh.shape[axis] for axis in sharding.MESH_AXES)
    times, llm = config.optim.accumulate, config.llm
    found = []
    passes = (1 if current.number == 2 else 2) + (llm.remat == "full")
    if fsdp > 1 and not current.cached:
        held = sum(map(shard_bytes, jax.tree.leaves(frozen)))
        found.append(Collective("all-gather", ("fsdp",), fsdp, times * passes, held * fsdp))
    learned = sum(map(shard_bytes, jax.tree.leaves(trainable)))
    if data > 1:
        found.append(Collective("all-reduce", ("data",), data, times, learned))
    if fsdp > 1:
        found.append(Collective("reduce-scatter", ("fsdp",), fsdp, times, learned * fsdp))
    if tensor > 1 and not current.cached:
        rows = config.data.rows // math.prod((data, fsdp))
        size = rows * config.data.row_tokens * llm.width * np.dtype(llm.compute_dtype).itemsize
        found.append(Collective("all-reduce", ("tensor",), tensor, times * passes * 2 * llm.layers, size))
    return found


def sweep_text(found: list[Try], topology: Topology) -> str:
    """A table, and the flags of the best."""
    lines = [f"the best of a sweep on {topology.name}, by tokens/s a chip at the vendor's peaks, all overlapped", ""]
    lines.append(
        f"  {'data':>5s} {'fsdp':>5s} {'tensor':>6s} {'rows':>6s} {'x acc.':>6s} {'remat':>6s} {'GiB':>7s} "
        f"{'tokens/s a chip':>16s} {'MFU':>6s} {'fits':>5s}"
    )
    for one in found:
        mesh, plan = one.plan.mesh, one.plan
        lines.append(
            f"  {mesh['data']:5d} {mesh['fsdp']:5d} {mesh['tensor']:6d} {plan.config.data.rows:6d} "
            f"{plan.config.optim.accumulate:6d} {plan.config.llm.remat:>6s} {plan.peak / 2**30:7.2f} "
            f"{one.compiled_rate:16,.0f} {plan.estimate.mfu(plan.estimate.overlapped):6.1%} "
            f"{'yes' if plan.fits else 'no':>5s}"
        )
    best = found[0]
    said = f"fits: {' '.join(best.flags)}" if best.plan.fits else "does not fit: none of those that were compiled"
    return "\n".join([*lines, "", said])
