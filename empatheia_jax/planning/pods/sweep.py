"""Search for the best mesh and number of rows: all are estimated, the best few compiled.

Estimates come from `memory_model`, for what fits, and from the collectives of a sharded Llama, for the time of a step.
The compiled plans decide.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from empatheia_jax.config import Config, ConfigError, MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.planning import flops
from empatheia_jax.planning.local import config_widths
from empatheia_jax.planning.pods.collectives import Collective
from empatheia_jax.planning.pods.memory_model import estimate_memory, shard_bytes
from empatheia_jax.planning.pods.plan import (
    Plan,
    abstract_inputs,
    full_load,
    make_plan,
    model_before_stage,
    place_model,
)
from empatheia_jax.planning.pods.roofline import estimate_time
from empatheia_jax.planning.pods.topologies import Topology
from empatheia_jax.training.stages import Stage, choose_stages, replace_stage

MARGIN = 0.87  # share of a chip's memory that an estimate may fill: compilers take more
COMPILED = 3  # candidates with the config's batch that are compiled
MAX_TENSOR = 8  # most devices along `tensor`
ROWS = (1, 2, 4, 8, 16)  # rows of a micro-batch on each device along data x fsdp


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and a batch."""

    flags: list[str]  # command-line flags that set them
    config: Config
    seconds: float  # estimated time of a step
    tokens_per_second: float  # estimated, per chip
    peak: int  # estimated bytes of a device


@dataclasses.dataclass(frozen=True)
class CompiledCandidate(Candidate):
    """A candidate with its plan."""

    plan: Plan

    @property
    def compiled_rate(self) -> float:
        """Tokens per second and chip by the plan, at the vendor's peaks."""
        return self.plan.tokens / self.plan.chips / self.plan.estimate.overlapped


def step_rows(config: Config, number: int) -> int:
    """Return the rows of one update of the optimizer."""
    (stage,) = choose_stages(config, [number])
    return stage.data.rows * config.optim.accumulate


def sweep_meshes(
    config: Config, number: int, topology: Topology, log: Callable[[str], None] = lambda text: None
) -> list[CompiledCandidate]:
    """Compile the best few of `candidates` whose step has as many rows as the config's.

    Args:
      config: settings of the run.
      number: number of the stage.
      topology: the machine.
      log: called with a line before each compilation, which takes minutes.
    Returns:
      The compiled candidates, best first; those that do not fit come last. After them comes the best with a larger
      batch, where that is faster; a run with it may learn differently.
    Raises:
      ConfigError: nothing fits by the estimates.
    """
    log(f"estimating meshes, rows and remat for {topology.name}")
    fitting = sorted(candidates(config, number, topology), key=lambda candidate: -candidate.tokens_per_second)
    if not fitting:
        raise ConfigError(f"{config.name} on {topology.name}: no mesh and batch fits: take more chips")
    rows = step_rows(config, number)
    same = [candidate for candidate in fitting if step_rows(candidate.config, number) == rows][:COMPILED]
    larger = [] if fitting[0] in same else fitting[: 1 if same else COMPILED]
    total, started = len(same) + len(larger), time.monotonic()
    log(f"{len(fitting)} fit, {total} are compiled")

    def compile_all(chosen: list[Candidate], before: int) -> list[CompiledCandidate]:
        compiled = []
        for candidate in chosen:
            done = before + len(compiled)
            remaining = f", {(total - done) * (time.monotonic() - started) / done:.0f} s to go" if done else ""
            log(f"{done + 1} of {total}{remaining}: {' '.join(candidate.flags)}")
            plan = make_plan(candidate.config, number, topology, log)
            compiled.append(CompiledCandidate(**vars(candidate), plan=plan))
        return sorted(compiled, key=lambda candidate: (not candidate.plan.fits, -candidate.compiled_rate))

    return compile_all(same, 0) + compile_all(larger, len(same))


def candidates(config: Config, number: int, topology: Topology) -> list[Candidate]:
    """Return every mesh of powers of two, rows and remat that fits by the estimate, with no fewer rows a step."""
    count, fitting, least_rows = len(topology.devices), [], step_rows(config, number)
    model, (stage,) = None, choose_stages(config, [number])
    for mesh_config in _meshes(count):
        try:
            mesh = sharding.make_mesh(mesh_config, list(topology.devices))
            shares = mesh_config.data * mesh_config.fsdp
            model = model or model_before_stage(config, number, mesh)
            trainable, frozen = place_model(model, stage, mesh)
        except ConfigError:
            continue  # a dimension that this mesh does not divide
        for remat in ("lora", "full"):
            for rows in ROWS:
                accumulate = -(-least_rows // (rows * shares))
                changed = dataclasses.replace(
                    replace_stage(config, number, rows=rows * shares),
                    mesh=mesh_config,
                    llm=dataclasses.replace(config.llm, remat=remat),
                    optim=dataclasses.replace(config.optim, accumulate=accumulate),
                )
                candidate = _estimate(changed, number, topology, mesh, trainable=trainable, frozen=frozen)
                if candidate is not None:
                    fitting.append(candidate)
    return fitting


def _meshes(count: int) -> list[MeshConfig]:
    sizes = [2**power for power in range(count.bit_length()) if count % 2**power == 0]
    return [
        MeshConfig(count // (fsdp * tensor), fsdp, tensor)
        for tensor in sizes
        if tensor <= MAX_TENSOR
        for fsdp in sizes
        if count % (fsdp * tensor) == 0
    ]


def _estimate(config: Config, number: int, topology: Topology, mesh, *, trainable, frozen) -> Candidate | None:
    """Estimate a step's memory and time; None where it does not fit."""
    stage, batch = abstract_inputs(config, number, mesh)
    memory = estimate_memory(config, stage, trainable, frozen, batch=batch, mesh=mesh)
    if memory.peak > MARGIN * topology.memory:
        return None
    load, widths = full_load(config, stage), config_widths(config)
    seconds = estimate_time(
        config,
        stage,
        model_flops=flops.training_step(config, stage, widths, load),
        recomputed=flops.recomputed(config, stage, load),
        collectives=estimate_collectives(config, stage, trainable, frozen, mesh=mesh),
        memory=memory,
        topology=topology,
        mesh=mesh,
    ).overlapped
    sizes, optim = config.mesh, config.optim
    flags = [
        "--mesh.data",
        sizes.data,
        "--mesh.fsdp",
        sizes.fsdp,
        "--mesh.tensor",
        sizes.tensor,
        f"--stages.{number}.rows",
        stage.data.rows,
        "--optim.accumulate",
        optim.accumulate,
        "--llm.remat",
        config.llm.remat,
    ]
    rate = load.tokens / mesh.devices.size / seconds
    return Candidate([str(flag) for flag in flags], config, seconds, rate, memory.peak)


def estimate_collectives(config: Config, stage: Stage, trainable, frozen, *, mesh) -> list[Collective]:
    """Return the collectives that a step needs at least: gathers of weights, sums of gradients, sums over `tensor`."""
    data, fsdp, tensor = (mesh.shape[axis] for axis in sharding.MESH_AXES)
    micro_batches, llm = config.optim.accumulate, config.llm
    collectives = []
    passes = (2 if stage.backprops_through_llm else 1) + (llm.remat == "full")
    if fsdp > 1 and not stage.cached:
        frozen_bytes = sum(map(shard_bytes, jax.tree.leaves(frozen)))
        collectives.append(Collective("all-gather", ("fsdp",), fsdp, micro_batches * passes, frozen_bytes * fsdp))
    gradient_bytes = sum(map(shard_bytes, jax.tree.leaves(trainable)))
    if data > 1:
        collectives.append(Collective("all-reduce", ("data",), data, micro_batches, gradient_bytes))
    if fsdp > 1:
        collectives.append(Collective("reduce-scatter", ("fsdp",), fsdp, micro_batches, gradient_bytes * fsdp))
    if tensor > 1 and not stage.cached:
        rows = sharding.rows_per_shard(stage.data.rows, mesh)
        size = rows * stage.data.row_tokens * llm.width * np.dtype(llm.compute_dtype).itemsize
        count = micro_batches * passes * 2 * llm.layers
        collectives.append(Collective("all-reduce", ("tensor",), tensor, count, size))
    return collectives


def sweep_text(compiled: list[CompiledCandidate], topology: Topology) -> str:
    """Return a table of compiled candidates; its last line has the flags of the best."""
    lines = [f"the best of a sweep on {topology.name}, by tokens/s a chip at the vendor's peaks, all overlapped", ""]
    lines.append(
        f"  {'data':>5s} {'fsdp':>5s} {'tensor':>6s} {'rows':>6s} {'x acc.':>6s} {'remat':>6s} {'GiB':>7s} "
        f"{'tokens/s a chip':>16s} {'MFU':>6s} {'fits':>5s}"
    )
    for candidate in compiled:
        mesh, plan = candidate.plan.mesh, candidate.plan
        lines.append(
            f"  {mesh['data']:5d} {mesh['fsdp']:5d} {mesh['tensor']:6d} {plan.stage.data.rows:6d} "
            f"{plan.config.optim.accumulate:6d} {plan.config.llm.remat:>6s} {plan.peak / 2**30:7.2f} "
            f"{candidate.compiled_rate:16,.0f} {plan.estimate.mfu(plan.estimate.overlapped):6.1%} "
            f"{'yes' if plan.fits else 'no':>5s}"
        )
    best = compiled[0]
    verdict = f"fits: {' '.join(best.flags)}" if best.plan.fits else "does not fit: none of those that were compiled"
    return "\n".join([*lines, "", verdict])
