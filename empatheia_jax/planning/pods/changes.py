"""Search for the smallest change that makes a plan fit."""

import dataclasses
from collections.abc import Callable, Iterator

from empatheia_jax.config import Config, ConfigError, MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.planning.pods.plan import Plan, make_plan, plan_memory, refused_bytes
from empatheia_jax.planning.pods.topologies import Topology
from empatheia_jax.training.stages import replace_stage

MOST_COMPILED = 2  # changes that are compiled at most


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the config, and the plan with it."""

    flags: list[str]  # command-line flags that make the change
    plan: Plan


def find_smallest_change(
    config: Config, number: int, topology: Topology, plan: Plan, *, log: Callable[[str], None] = lambda text: None
) -> Change | None:
    """Find the first of `candidates` that fits. Only those that fit by the memory model are compiled.

    Args:
      config: settings of the run.
      number: number of the stage.
      topology: the machine.
      plan: the plan that does not fit.
      log: called with a line about each change that is compiled.
    Returns:
      The change; None where none of those that were tried fits.
    """
    temporaries = plan.compiled_memory.temporaries if plan.compiled_memory else refused_bytes(plan.refused)
    # The model's temporaries are scaled by how much the compiler's exceeded them in the plan that does not fit.
    correction = max(1.0, (temporaries or 0) / plan.estimated_memory.temporaries) if not topology.simulated else 1.0
    tried = 0
    for flags, changed in candidates(config, plan):
        try:
            memory = plan_memory(changed, number, topology, plan.abstract_model)
        except ConfigError:
            continue  # rows or a dimension that this mesh does not divide
        if memory.arguments + correction * memory.temporaries > topology.memory:
            continue
        log(f"trying {' '.join(flags)}")
        changed_plan = make_plan(changed, number, topology, log)
        if changed_plan.fits:
            return Change(flags, changed_plan)
        tried += 1
        if tried == MOST_COMPILED:
            return None
    return None


def candidates(config: Config, plan: Plan) -> Iterator[tuple[list[str], Config]]:
    """Yield (flags, changed config): smaller micro-batches, full remat, another mesh; single changes, then pairs."""
    single = [
        candidate
        for candidate in (
            _halve_rows(config, plan),
            _use_full_remat(config),
            _double_axis(plan, "fsdp"),
            _double_axis(plan, "tensor"),
        )
        if candidate is not None
    ]
    for flags, change in single:
        yield flags, change(config)
    for index, (flags, change) in enumerate(single):
        for other_flags, other_change in single[index + 1 :]:
            if not set(flags) & set(other_flags):
                yield flags + other_flags, other_change(change(config))


def _halve_rows(config: Config, plan: Plan):
    """Return (flags, change) for half the rows and twice the accumulation; None where their number is odd."""
    stage, (rows, odd) = plan.stage, divmod(plan.stage.data.rows, 2)
    if odd:
        return None
    name = f"--stages.{stage.number}.rows" if stage.settings.rows is not None else "--data.rows"

    def change(config: Config) -> Config:
        optim = dataclasses.replace(config.optim, accumulate=2 * config.optim.accumulate)
        config = dataclasses.replace(config, optim=optim)
        if stage.settings.rows is not None:
            return replace_stage(config, stage.number, rows=rows)
        return dataclasses.replace(config, data=dataclasses.replace(config.data, rows=rows))

    return [name, str(rows), "--optim.accumulate", str(2 * config.optim.accumulate)], change


def _use_full_remat(config: Config):
    if config.llm.remat == "full":
        return None
    return ["--llm.remat", "full"], lambda c: dataclasses.replace(c, llm=dataclasses.replace(c.llm, remat="full"))


def _double_axis(plan: Plan, axis: str):
    """Return (flags, change) for twice the devices along `axis`, taken from the first axis before it of even size."""
    sizes = dict(plan.mesh)
    even = [name for name in sharding.MESH_AXES[: sharding.MESH_AXES.index(axis)] if sizes[name] % 2 == 0]
    if not even:
        return None
    sizes[even[0]] //= 2
    sizes[axis] *= 2
    flags = [word for name, size in sizes.items() for word in (f"--mesh.{name}", str(size))]
    return flags, lambda c: dataclasses.replace(c, mesh=MeshConfig(**sizes))
