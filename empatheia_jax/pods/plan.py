"""`empatheia plan --topology`: the step that `train.py` would run, compiled for devices that are not here.

Everything comes from the config: shapes, shardings, attention and remat. Nothing is allocated and no data is read.
"""

import contextlib
import dataclasses
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from empatheia_jax import flops, sharding
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.data.batch_arrays import batch_shapes
from empatheia_jax.data.feature_records import FLOATS
from empatheia_jax.data.packing import Bounds
from empatheia_jax.data.rows import read_shapes, states_of, with_data
from empatheia_jax.data.schema import Widths
from empatheia_jax.plan import config_widths
from empatheia_jax.pods.collectives import Collective, find_collectives
from empatheia_jax.pods.memory_model import Memory, modelled
from empatheia_jax.pods.roofline import Estimate, estimate
from empatheia_jax.pods.topologies import Topology
from empatheia_jax.training.prepare import Built, abstract_batch, after, build_step
from empatheia_jax.training.run import abstract_model
from empatheia_jax.training.stages import Stage, stage
from empatheia_jax.training.step import split

STEPS = 1000  # of a stage; only the learning rate's constants depend on it
SIMULATED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # never run: no polish
REPLICATED = 2**20  # bytes of a parameter from which on its being everywhere is worth a word
_WIDTHS = Widths((1, 1), (1, 1), 1, 1, 1, 1, 1)  # of a model without modalities, as `Run.rows` has them


Model = tuple[nnx.GraphDef, nnx.State]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What compiling a step for a machine says. Bytes are those of one device."""

    config: Config
    stage: Stage
    topology: Topology
    mesh: dict[str, int]
    parameters: int
    trained: int
    model: Memory  # by hand
    compiled: Memory | None  # the compiler's; None: it gave up, see `refused`
    refused: str
    seconds: dict[str, float]  # "lower", "compile"
    model_flops: float  # of all devices together, one step
    recomputed: float
    compiler_flops: float | None  # of one device, loop bodies once
    collectives: list[Collective]
    estimate: Estimate
    tokens: int  # places of a step's token grid (of responses where states are cached)
    replicated: list[tuple[str, int]]  # parameters that every device holds whole though they would divide, bytes
    incoming: Model  # see `incoming`

    @property
    def peak(self) -> int:
        """Bytes that a device needs: the compiler's, the model's for GPUs, whose programs are not compiled here."""
        if self.topology.simulated:
            return self.model.peak
        if self.compiled:
            return self.compiled.peak
        temporaries = refused_bytes(self.refused) or self.model.temporaries
        return max(self.model.arguments + temporaries, self.topology.memory + 1)

    @property
    def fits(self) -> bool:
        return self.peak <= self.topology.memory

    @property
    def moved(self) -> float:
        """Bytes that a device sends in a step."""
        return sum(one.moved for one in self.collectives)

    @property
    def chips(self) -> int:
        return int(np.prod(list(self.mesh.values())))


def stage_config(config: Config, number: int) -> Config:
    """The config with the shapes that a stage has of its own."""
    return with_data(config, **config.stages[str(number)].shape())


def check_rows(config: Config, mesh: Mesh) -> None:
    """See that the rows of a micro-batch divide over the mesh.

    Raises:
      ConfigError: they do not.
    """
    shares = int(np.prod([mesh.shape[axis] for axis in sharding.BATCH_AXES]))
    if config.data.rows % shares:
        raise ConfigError(f"data.rows {config.data.rows} is not divisible by the mesh's data x fsdp, {shares}")


def trace(config: Config, number: int, mesh: Mesh) -> tuple[Built, Model, dict[str, jax.ShapeDtypeStruct]]:
    """The step of a stage, lowered for a mesh; the model as it comes in and the batch that it takes.

    Raises:
      ConfigError: rows or parameters that the mesh does not divide, or a stage that the config has not.
    """
    model = incoming(config, number, mesh)
    config, current, batch = batch_of(config, number, mesh)
    return build_step(config, current, *model, batch, STEPS, Bounds(config.data.row_targets), mesh), model, batch


def incoming(config: Config, number: int, mesh: Mesh) -> Model:
    """The whole model, abstract and placed on a mesh, as it comes into a stage.

    Raises:
      ConfigError: parameters that the mesh does not divide, or a stage that the config has not.
    """
    if number not in stages_of(config):
        raise ConfigError(f"{config.name} has no stage {number}: choose from {stages_of(config)}")
    graphdef, abstract = abstract_model(config, config_widths(config), mesh)
    for earlier in stages_of(config):
        if earlier < number:
            abstract = after(stage(earlier, config), graphdef, abstract)
    return graphdef, abstract


def moved_to(model: Model, current: Stage, mesh: Mesh) -> tuple[nnx.State, nnx.State]:
    """(trainable, frozen) of `incoming`'s model on another mesh, which takes no tracing.

    Raises:
      ShardingError: parameters that the mesh does not divide.
    """
    graphdef, abstract = model
    abstract = sharding.placed(abstract, sharding.shardings(abstract, mesh))
    return split(nnx.merge(graphdef, abstract), current)[1:]


def batch_of(config: Config, number: int, mesh: Mesh) -> tuple[Config, Stage, dict[str, jax.ShapeDtypeStruct]]:
    """(config with the stage's shapes, stage, abstract batch); raises ConfigError where the mesh splits no rows."""
    current, config = stage(number, config), stage_config(config, number)
    check_rows(config, mesh)
    batch = abstract_batch(step_shapes(config, current, config_widths(config) or _WIDTHS), mesh)
    return config, current, batch


def step_shapes(config: Config, current: Stage, widths: Widths) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of a step's arrays [A, ...], as `training.run.Run.rows` would read them."""
    stored = bool(config.modalities)
    shaped = read_shapes(config, current.prompt, content=current.content, stored=stored, cached=current.cached)
    floats = np.dtype(FLOATS[config.data.feature_dtype] if stored else np.float16)
    states = states_of(config, floats, current.cached)
    return batch_shapes(shaped, widths, config.data.rows, floats, states, (config.optim.accumulate,))


def stages_of(config: Config) -> list[int]:
    """Numbers of the stages that a run of the config goes through."""
    return [n for n in range(5) if (n > 0 or config.base == "scratch") and (n <= 1 or config.modalities)]


def make_plan(config: Config, number: int, topology: Topology, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Compile a stage's step for a machine and read off what it takes.

    Args:
      say: told what begins; compiling takes minutes.
    Raises:
      ConfigError: as `trace`.
    """
    mesh = sharding.make_mesh(config.mesh, list(topology.devices))
    say(f"tracing stage {number} for mesh {dict(mesh.shape)}")
    started = time.perf_counter()
    simulated = topology.simulated and config.llm.attention == "cudnn"
    traced = dataclasses.replace(config, llm=dataclasses.replace(config.llm, attention="xla")) if simulated else config
    built, incoming_model, batch = trace(traced, number, mesh)
    program = built.lowered()
    lowered = time.perf_counter()
    say(f"traced in {lowered - started:.0f} s, compiling")
    compiled, hlo, refused = None, "", ""
    try:
        with _quiet():
            compiled, hlo = _compiled(program, topology)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refused = " ".join(str(error).split())
    say(f"compiled in {time.perf_counter() - lowered:.0f} s" if compiled else f"refused: {refused}")
    seconds = {"lower": lowered - started, "compile": time.perf_counter() - lowered}
    found = find_collectives(hlo, dict(mesh.shape)) if compiled else []
    shaped, current, widths = stage_config(config, number), stage(number, config), config_widths(config)
    load = full_load(shaped, current)
    model_flops = flops.training_step(shaped, current, widths, load)
    again = flops.recomputed(shaped, current, load)
    memory = modelled(shaped, current, built.trainable, built.frozen, batch, mesh)
    abstract = incoming_model[1]
    leaves = jax.tree.leaves(abstract)
    return Plan(
        config=shaped,
        stage=current,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=sum(leaf.size for leaf in leaves),
        trained=sum(leaf.size for leaf in jax.tree.leaves(built.trainable)),
        model=memory,
        compiled=_compiled_memory(compiled, memory),
        refused=refused,
        seconds=seconds,
        model_flops=model_flops,
        recomputed=again,
        compiler_flops=(compiled.cost_analysis() or {}).get("flops") if compiled else None,
        collectives=found,
        estimate=estimate(shaped, current, model_flops, again, found, memory, topology, mesh),
        tokens=int(load.examples * load.response) if current.cached else int(load.tokens),
        replicated=find_replicated(abstract, mesh),
        incoming=incoming_model,
    )


def model_memory(config: Config, number: int, topology: Topology, model: Model | None = None) -> Memory:
    """The memory that a stage's step would take, by hand: no step is traced.

    Args:
      model: of `incoming`, on any mesh, where it is known; None: made.
    Raises:
      ConfigError: as `trace`.
    """
    mesh = sharding.make_mesh(config.mesh, list(topology.devices))
    shaped, current, batch = batch_of(config, number, mesh)
    trainable, frozen = moved_to(model or incoming(config, number, mesh), current, mesh)
    return modelled(shaped, current, trainable, frozen, batch, mesh)


def full_load(config: Config, current: Stage) -> flops.Load:
    """What a step works on when every place is filled: rows full of `row_examples` Examples of one length."""
    data, rows = config.data, config.data.rows * config.optim.accumulate
    examples = rows * data.row_examples
    tokens = float(rows * data.row_tokens)
    slots = 0 if current.prompt == "text" else rows * data.row_utterances
    return flops.Load(
        tokens=tokens,
        context=(data.row_tokens / data.row_examples + 1) / 2,
        targets=float(rows * data.row_targets),
        examples=float(examples),
        slots=(slots, slots),
        response=float(data.response_tokens),
        phonemes=float(data.phonemes),
        frames=float(data.frames),
    )


def find_replicated(state: nnx.State, mesh: Mesh) -> list[tuple[str, int]]:
    """Parameters of over a megabyte that lie whole on every device though a dimension would divide over the mesh.

    Adapters are left out: one of their matrices is split over `tensor` alone, and is a hundredth of its kernel at most.
    """
    split = [mesh.shape[axis] for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1]
    found = []
    for path, variable in nnx.to_flat_state(state):
        size = int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize
        whole = variable.sharding.shard_shape(variable.shape) == tuple(variable.shape)
        divides = any(dimension % count == 0 for dimension in variable.shape for count in split)
        if whole and divides and size > REPLICATED and not isinstance(variable, nnx.LoRAParam):
            found.append(("/".join(map(str, path)), size))
    return found


def _compiled(program: jax.stages.Lowered, topology: Topology) -> tuple[jax.stages.Compiled, str]:
    """(a program compiled for a machine, the text of what became of it).

    A TPU's text is the one that libtpu writes itself: jaxlib cannot read all that its programs hold (an async-update of
    several operands, as the SparseCores of v5p get it, fails its checks).
    """
    if topology.simulated:
        compiled = program.compile(SIMULATED)
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory(prefix="empatheia-plan-") as folder:
        compiled = program.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        texts = list(Path(folder).glob("*.after_optimizations.txt"))
        return compiled, max(texts, key=lambda path: path.stat().st_size).read_text() if texts else compiled.as_text()


def _compiled_memory(compiled, model: Memory) -> Memory | None:
    if compiled is None:
        return None
    said = compiled.memory_analysis()
    return Memory(
        arguments=said.argument_size_in_bytes,
        temporaries=said.temp_size_in_bytes,
        output=said.output_size_in_bytes - said.alias_size_in_bytes,
        parts=model.parts,
    )


@contextlib.contextmanager
def _quiet():
    """The persistent cache is of no use to programs for other machines, and warns."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def refused_bytes(message: str) -> int | None:
    """How much a program that the compiler refused would take, where its message says so."""
    match = re.search(r"\(([\d.]+)([MG])\) exceeds|Used ([\d.]+)([MG])", message)
    if not match:
        return None
    number, unit = (match.group(1), match.group(2)) if match.group(1) else (match.group(3), match.group(4))
    return int(float(number) * {"M": 2**20, "G": 2**30}[unit])
