"""The step that `train.py` would run, compiled for devices that are not at hand.

Everything follows from the config: shapes, shardings, attention and remat. Nothing is allocated and no data is read.
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

from empatheia_jax.config import Config
from empatheia_jax.data.batches.batch import Batch, BatchSpec
from empatheia_jax.data.batches.packer import Bounds
from empatheia_jax.data.features.records import FLOAT_DTYPES
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.planning import flops
from empatheia_jax.planning.local import config_widths
from empatheia_jax.planning.pods.collectives import Collective, find_collectives
from empatheia_jax.planning.pods.memory_model import Memory, estimate_memory
from empatheia_jax.planning.pods.roofline import Estimate, estimate_time
from empatheia_jax.planning.pods.topologies import Topology
from empatheia_jax.training.compilation import TracedStep, abstract_batch, trace_step
from empatheia_jax.training.context import TEXT_ONLY_WIDTHS
from empatheia_jax.training.stages import Stage, choose_stages
from empatheia_jax.training.step import split

STEPS = 1000  # steps of a stage; only constants of the learning rate depend on it
SIMULATED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # these programs never run
REPLICATED = 2**20  # bytes of a parameter above which a warning is given where it is not sharded
Model = tuple[nnx.GraphDef, nnx.State]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step needs of a machine, found by compiling it. Bytes are those of one device."""

    config: Config
    stage: Stage
    topology: Topology
    mesh: dict[str, int]  # {axis: size}
    parameters: int  # of the whole model
    trained: int  # parameters that the stage trains
    estimated_memory: Memory  # by `memory_model`
    compiled_memory: Memory | None  # by the compiler; None: it refused the program
    refused: str  # the compiler's error; "": none
    seconds: dict[str, float]  # that "lower" and "compile" took
    model_flops: float  # of a step, all devices together
    recomputed: float  # FLOPs that the backward pass recomputes, all devices together
    compiler_flops: float | None  # of one device by the compiler, which counts the body of a loop once
    collectives: list[Collective]
    estimate: Estimate  # of a step's time
    tokens: int  # tokens of a step, padding included (of the responses where states are cached)
    replicated: list[tuple[str, int]]  # (name, bytes) of large parameters that could be sharded and are not
    abstract_model: Model  # as it enters the stage, placed on the mesh

    @property
    def peak(self) -> int:
        """Bytes that a device needs: the compiler's; for GPUs the estimate, as their programs are not compiled here."""
        if self.topology.simulated:
            return self.estimated_memory.peak
        if self.compiled_memory:
            return self.compiled_memory.peak
        temporaries = refused_bytes(self.refused) or self.estimated_memory.temporaries
        return max(self.estimated_memory.arguments + temporaries, self.topology.memory + 1)

    @property
    def fits(self) -> bool:
        """Whether the step fits the memory of a device."""
        return self.peak <= self.topology.memory

    @property
    def bytes_sent(self) -> float:
        """Bytes that a device sends in a step."""
        return sum(collective.bytes_sent for collective in self.collectives)

    @property
    def chips(self) -> int:
        """Number of devices of the mesh."""
        return int(np.prod(list(self.mesh.values())))


def trace_stage(config: Config, number: int, mesh: Mesh) -> tuple[TracedStep, Model, Batch[jax.ShapeDtypeStruct]]:
    """Trace the step of a stage for a mesh.

    Returns:
      (the traced step, the abstract model as it enters the stage, the abstract batch).
    Raises:
      ConfigError: the mesh does not divide rows or parameters, or the config has no such stage.
    """
    model = model_before_stage(config, number, mesh)
    stage, batch = abstract_inputs(config, number, mesh)
    bounds = Bounds(stage.data.row_targets)
    return trace_step(config, stage, *model, batch=batch, steps=STEPS, bounds=bounds, mesh=mesh), model, batch


def model_before_stage(config: Config, number: int, mesh: Mesh) -> Model:
    """Return the whole model as it enters a stage, abstract and placed on a mesh.

    Raises:
      ConfigError: the mesh does not divide the parameters, or the config has no such stage.
    """
    choose_stages(config, [number])  # raises
    return abstract_model(config, config_widths(config), mesh)


def place_model(model: Model, stage: Stage, mesh: Mesh) -> tuple[nnx.State, nnx.State]:
    """Place the model of `model_before_stage` on another mesh, without tracing again.

    Returns:
      (trainable state, frozen state), abstract.
    Raises:
      ShardingError: the mesh does not divide the parameters.
    """
    graphdef, abstract = model
    abstract = sharding.with_shardings(abstract, sharding.shardings(abstract, mesh))
    return split(nnx.merge(graphdef, abstract), stage)[1:]


def abstract_inputs(config: Config, number: int, mesh: Mesh) -> tuple[Stage, Batch[jax.ShapeDtypeStruct]]:
    """Return what the step of a stage is traced for.

    Returns:
      (the stage, the abstract batch placed on the mesh).
    Raises:
      ConfigError: the mesh does not divide the rows, or the config has no such stage.
    """
    (stage,) = choose_stages(config, [number])
    sharding.rows_per_shard(stage.data.rows, mesh)
    spec = BatchSpec.for_stage(
        dataclasses.replace(config, data=stage.data),
        stage.prompt_kind,
        config_widths(config) or TEXT_ONLY_WIDTHS,
        float_dtype=np.dtype(FLOAT_DTYPES[config.data.feature_dtype]) if config.modalities else None,
        content=stage.has_content,
        cached=stage.cached,
    )
    return stage, abstract_batch(spec, mesh, config.optim.accumulate)


def make_plan(config: Config, number: int, topology: Topology, log: Callable[[str], None] = lambda text: None) -> Plan:
    """Compile a stage's step for a machine.

    Args:
      config: settings of the run.
      number: number of the stage.
      topology: the machine.
      log: called with a line before each part of the work; compiling takes minutes.
    Raises:
      ConfigError: as `trace_stage`.
    """
    mesh = sharding.make_mesh(config.mesh, list(topology.devices))
    log(f"tracing stage {number} for mesh {dict(mesh.shape)}")
    started = time.perf_counter()
    # cuDNN's attention cannot be compiled for the CPU devices that simulate GPUs.
    replaced = {"attention": "xla"} if topology.simulated and config.llm.attention == "cudnn" else {}
    compilable = dataclasses.replace(config, llm=dataclasses.replace(config.llm, **replaced))
    traced, model, batch = trace_stage(compilable, number, mesh)
    program = traced.lower()
    lowered_at = time.perf_counter()
    log(f"traced in {lowered_at - started:.0f} s, compiling")
    compiled, hlo, refused = None, "", ""
    try:
        with _no_compilation_cache():
            compiled, hlo = _compile(program, topology)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refused = " ".join(str(error).split())
    log(f"compiled in {time.perf_counter() - lowered_at:.0f} s" if compiled else f"refused: {refused}")
    seconds = {"lower": lowered_at - started, "compile": time.perf_counter() - lowered_at}
    collectives = find_collectives(hlo, dict(mesh.shape)) if compiled else []
    (stage,) = choose_stages(config, [number])
    load = full_load(config, stage)
    model_flops = flops.training_step(config, stage, config_widths(config), load)
    recomputed = flops.recomputed(config, stage, load)
    memory = estimate_memory(config, stage, traced.trainable, traced.frozen, batch=batch, mesh=mesh)
    parameters = model[1]
    return Plan(
        config=config,
        stage=stage,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        trained=sum(leaf.size for leaf in jax.tree.leaves(traced.trainable)),
        estimated_memory=memory,
        compiled_memory=_compiled_memory(compiled, memory),
        refused=refused,
        seconds=seconds,
        model_flops=model_flops,
        recomputed=recomputed,
        compiler_flops=(compiled.cost_analysis() or {}).get("flops") if compiled else None,
        collectives=collectives,
        estimate=estimate_time(
            config,
            stage,
            model_flops=model_flops,
            recomputed=recomputed,
            collectives=collectives,
            memory=memory,
            topology=topology,
            mesh=mesh,
        ),
        tokens=int(load.examples * load.response) if stage.cached else int(load.tokens),
        replicated=find_replicated(parameters, mesh),
        abstract_model=model,
    )


def plan_memory(config: Config, number: int, topology: Topology, model: Model | None = None) -> Memory:
    """Estimate the memory of a stage's step by the memory model: no step is traced.

    Args:
      config: settings of the run.
      number: number of the stage.
      topology: the machine.
      model: result of `model_before_stage` on any mesh, if it is at hand.
    Raises:
      ConfigError: as `trace_stage`.
    """
    mesh = sharding.make_mesh(config.mesh, list(topology.devices))
    stage, batch = abstract_inputs(config, number, mesh)
    trainable, frozen = place_model(model or model_before_stage(config, number, mesh), stage, mesh)
    return estimate_memory(config, stage, trainable, frozen, batch=batch, mesh=mesh)


def full_load(config: Config, stage: Stage) -> flops.Load:
    """Return the load of a step without padding, whose rows have `row_examples` Examples of equal length."""
    data, rows = stage.data, stage.data.rows * config.optim.accumulate
    examples = rows * data.row_examples
    tokens = float(rows * data.row_tokens)
    slots = 0 if stage.prompt_kind == "text" else rows * data.row_utterances
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
    """Find parameters of over a megabyte that are not sharded though the mesh divides one of their dimensions.

    Adapters are left out: one of their matrices is sharded over `tensor` alone, and has at most a hundredth of its
    kernel's size.

    Returns:
      [(name, bytes)].
    """
    sizes = [mesh.shape[axis] for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1]
    replicated = []
    for path, variable in nnx.to_flat_state(state):
        size = int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize
        is_whole = variable.sharding.shard_shape(variable.shape) == tuple(variable.shape)
        divides = any(dimension % count == 0 for dimension in variable.shape for count in sizes)
        if is_whole and divides and size > REPLICATED and not isinstance(variable, nnx.LoRAParam):
            replicated.append(("/".join(map(str, path)), size))
    return replicated


def _compile(program: jax.stages.Lowered, topology: Topology) -> tuple[jax.stages.Compiled, str]:
    """Compile a program for a machine, and return (the compiled program, its HLO).

    For a TPU the HLO is the one that libtpu dumps: jaxlib cannot read every program of libtpu (an async-update of
    several operands, as the SparseCores of v5p get it, fails its checks).
    """
    if topology.simulated:
        compiled = program.compile(SIMULATED)
        return compiled, compiled.as_text() or ""
    with tempfile.TemporaryDirectory(prefix="empatheia-plan-") as folder:
        compiled = program.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        texts = list(Path(folder).glob("*.after_optimizations.txt"))
        return compiled, max(
            texts, key=lambda path: path.stat().st_size
        ).read_text() if texts else compiled.as_text() or ""


def _compiled_memory(compiled, estimated: Memory) -> Memory | None:
    if compiled is None:
        return None
    analysis = compiled.memory_analysis()
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        output=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        parts=estimated.parts,
    )


@contextlib.contextmanager
def _no_compilation_cache():
    """Turn the persistent compilation cache off: it cannot hold programs for other machines, and warns."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def refused_bytes(message: str) -> int | None:
    """Return the bytes that a program refused by the compiler needs; None where the message does not give them."""
    match = re.search(r"\(([\d.]+)([MG])\) exceeds|Used ([\d.]+)([MG])", message)
    if not match:
        return None
    number, unit = (match.group(1), match.group(2)) if match.group(1) else (match.group(3), match.group(4))
    return int(float(number) * {"M": 2**20, "G": 2**30}[unit])
