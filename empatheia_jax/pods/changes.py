"""What would make a plan fit: the smallest change, tried by planning again."""

import dataclasses
from collections.abc import Callable, Iterator

from empatheia_jax import sharding
from empatheia_jax.config import Config, ConfigError, MeshConfig
from empatheia_jax.pods.plan import Plan, make_plan, model_memory, refused_bytes
from empatheia_jax.pods.topologies import Topology

MOST_COMPILED = 2  # changes that are compiled before giving up


@dataclasses.dataclass(frozen=True)
class Change:
    """Flags that differ from the plan that does not fit, and the plan with them."""

    flags: list[str]
    plan: Plan


def smallest_change(
    config: Config, number: int, topology: Topology, plan: Plan, say: Callable[[str], None] = lambda text: None
) -> Change | None:
    """The first of `candidates` that fits; None: none does. The model by hand says which are worth compiling."""
    temporaries = plan.compiled.temporaries if plan.compiled else refused_bytes(plan.refused)
    off = max(1.0, (temporaries or 0) / plan.model.temporaries) if not topology.simulated else 1.0
    tried = 0
    for flags, changed in candidates(config, number, plan):
        try:
            memory = model_memory(changed, number, topology, plan.incoming)
        except ConfigError:
            continue  # the mesh divides something no longer
        if memory.arguments + off * memory.temporaries > topology.memory:
            continue
        say(f"trying {' '.join(flags)}")
        again = make_plan(changed, number, topology, say)
        if again.fits:
            return Change(flags, again)
        tried += 1
        if tried == MOST_COMPILED:
            return None
    return None


def candidates(config: Config, number: int, plan: Plan) -> Iterator[tuple[list[str], Config]]:
    """Changes one at a time, then two together: the same batch in smaller pieces, remat, another mesh."""
    single = [
        one
        for one in (
            _fewer_rows(config, number, plan),
            _full_remat(config),
            _more(config, plan, "fsdp"),
            _more(config, plan, "tensor"),
        )
        if one is not None
    ]
    for flags, change in single:
        yield flags, change(config)
    for first, (flags, change) in enumerate(single):
        for more, other in single[first + 1 :]:
            if not set(flags) & set(more):
                yield flags + more, other(change(config))


def _fewer_rows(config: Config, number: int, plan: Plan):
    """Half the rows, twice the accumulation; the mesh must still divide them."""
    rows, shares = plan.config.data.rows // 2, plan.mesh["data"] * plan.mesh["fsdp"]
    if rows == 0 or plan.config.data.rows % 2 or rows % shares:
        return None
    settings = config.stages[str(number)]
    name = f"--stages.{number}.rows" if settings.rows is not None else "--data.rows"

    def change(config: Config) -> Config:
        optim = dataclasses.replace(config.optim, accumulate=2 * config.optim.accumulate)
        if settings.rows is not None:
            stages = config.stages | {str(number): dataclasses.replace(settings, rows=rows)}
            return dataclasses.replace(config, optim=optim, stages=stages)
        return dataclasses.replace(config, optim=optim, data=dataclasses.replace(config.data, rows=rows))

    return [name, str(rows), "--optim.accumulate", str(2 * config.optim.accumulate)], change


def _full_remat(config: Config):
    if config.llm.remat == "full":
        return None
    return ["--llm.remat", "full"], lambda c: dataclasses.replace(c, llm=dataclasses.replace(c.llm, remat="full"))


def _more(config: Config, plan: Plan, axis: str):
    """Twice as many devices along `axis`, half as many along the first axis before it that has them to give."""
    sizes = dict(plan.mesh)
    givers = [name for name in sharding.MESH_AXES[: sharding.MESH_AXES.index(axis)] if sizes[name] % 2 == 0]
    if not givers:
        return None
    sizes[givers[0]] //= 2
    sizes[axis] *= 2
    flags = [word for name, size in sizes.items() for word in (f"--mesh.{name}", str(size))]
    return flags, lambda c: dataclasses.replace(c, mesh=MeshConfig(**sizes))
