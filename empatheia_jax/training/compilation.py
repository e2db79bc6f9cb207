"""A stage compiled before it runs: its rows, its optimizer and its compiled functions, from shapes alone.

With `Config.compile_ahead` later stages are compiled in other threads while one trains.
"""

import collections
import concurrent.futures
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.batches.batch import Batch, BatchSpec
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.packer import Bounds
from empatheia_jax.data.batches.pipeline import count_steps
from empatheia_jax.model import sharding
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.planning.flops import Load, training_step
from empatheia_jax.runtime import processes
from empatheia_jax.runtime.compile_report import Program, compile_ahead_of_time
from empatheia_jax.runtime.machine import usable_cores
from empatheia_jax.training.context import TrainingContext
from empatheia_jax.training.flat import FlatLayout
from empatheia_jax.training.optim import decay_mask, optimizer
from empatheia_jax.training.stages import Stage
from empatheia_jax.training.state_cache import make_states
from empatheia_jax.training.step import make_evaluation, make_step, split
from empatheia_jax.training.whiten import make_signals


@dataclasses.dataclass(frozen=True)
class CompiledStage:
    """What the step loop runs. `trainable` and `frozen` are abstract: shapes, dtypes and shardings."""

    stage: Stage
    rows: BatchBuilder
    validation: BatchBuilder | None  # None: no validation Examples
    steps: int
    trainable: nnx.State
    frozen: nnx.State
    flat: FlatLayout | None
    init: Callable  # trainable (one vector with `flat`) -> optimizer state
    step: Callable  # see `training.step.make_step`
    compute_signals: Callable | None  # see `training.whiten.make_signals`
    compute_states: Callable | None  # see `training.state_cache.make_states`
    flops: float  # model FLOPs of a mean step
    flops_per_token: float  # the same over the tokens that it reports
    programs: tuple[Program, ...]  # what was compiled for it

    def split(self, state: nnx.State) -> tuple[nnx.State, nnx.State]:
        """Split the whole state into (trainable, frozen) with the dtypes and shardings that `step` takes."""
        trainable, frozen = nnx.split_state(state, in_groups(self.stage.trains), ...)

        def convert(leaf, like):
            return jax.device_put(leaf.astype(like.dtype), like.sharding)

        return jax.tree.map(convert, trainable, self.trainable), jax.tree.map(convert, frozen, self.frozen)


def compile_stage(context: TrainingContext, stage: Stage, graphdef: nnx.GraphDef, abstract: nnx.State) -> CompiledStage:
    """Read the stage's rows and compile its functions, and its evaluation into `context.evaluations`.

    Args:
      context: of the run.
      stage: to compile.
      graphdef: of the whole model.
      abstract: the whole model's state between stages.

    Raises:
      RecordError: an Example that no row can hold.
      ConfigError: the mesh does not divide the rows.
    """
    config, mesh = context.config, context.mesh
    sharding.rows_per_shard(stage.data.rows, mesh)
    rows, validation = context.rows(stage), context.rows(stage, "validation") if context.data.validation else None
    steps = count_steps(rows, stage.settings.epochs)
    batch = abstract_batch(rows.spec, mesh, config.optim.accumulate)
    traced = trace_step(rows.config, stage, graphdef, abstract, batch=batch, steps=steps, bounds=rows.bounds, mesh=mesh)
    trainable, frozen = traced.trainable, traced.frozen
    with jax.set_mesh(mesh):
        flops, flops_per_token = model_flops(rows, stage)
        programs: list[Program] = []

        def compile_program(name: str, function, *arguments, flops: float | None = None):
            compiled, program = compile_ahead_of_time(name, function, *arguments, flops=flops)
            programs.append(program)
            return compiled

        step = compile_program("step", traced.step, *traced.arguments, flops=flops)
        micro_batch = abstract_batch(rows.spec, mesh)
        compute_signals = None
        if stage.has_style and config.latents.whiten:
            signals = jax.jit(make_signals(graphdef), out_shardings=sharding.replicated_sharding(mesh))
            compute_signals = compile_program("signals", signals, abstract, micro_batch)
        compute_states = None
        if stage.cached:
            tokens = abstract_batch(rows.token_rows().spec, mesh)
            states = jax.jit(make_states(graphdef), out_shardings=sharding.batch_sharding(mesh))
            compute_states = compile_program("states", states, abstract, tokens)
        if validation and stage.evaluation_key not in context.evaluations:
            evaluation = jax.jit(make_evaluation(graphdef, stage, Bounds(stage.data.row_targets)))
            compiled_evaluation = compile_program("evaluation", evaluation, abstract, micro_batch)
            context.evaluations[stage.evaluation_key] = compiled_evaluation
    return CompiledStage(
        stage,
        rows,
        validation,
        steps,
        trainable,
        frozen,
        traced.flat,
        traced.init,
        step,
        compute_signals,
        compute_states,
        flops,
        flops_per_token,
        tuple(programs),
    )


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """A stage's step, traced for a mesh and not yet compiled. `trainable` and `frozen` are abstract."""

    trainable: nnx.State
    frozen: nnx.State
    flat: FlatLayout | None
    init: Callable
    step: jax.stages.Wrapped
    arguments: tuple  # abstract
    mesh: jax.sharding.Mesh

    def lower(self) -> jax.stages.Lowered:
        """Return the step as it is given to the compiler."""
        with jax.set_mesh(self.mesh):
            return self.step.lower(*self.arguments)


def trace_step(
    config: Config,
    stage: Stage,
    graphdef: nnx.GraphDef,
    abstract: nnx.State,
    *,
    batch: Batch[jax.ShapeDtypeStruct],
    steps: int,
    bounds: Bounds,
    mesh: jax.sharding.Mesh,
) -> TracedStep:
    """Trace a stage's training step from shapes alone, for a mesh whose devices need not be there.

    Args:
      config: settings of the run.
      stage: what to train and minimise.
      graphdef: of the whole model.
      abstract: the whole model's state between stages, with shardings on `mesh`.
      batch: the arrays [A, ...] of a step, of all processes together.
      steps: of the whole stage, for the learning rate.
      bounds: of a row, static.
      mesh: to trace for.
    """
    stage_graph, trainable, frozen = split(nnx.merge(graphdef, abstract), stage)
    flat = FlatLayout(trainable) if mesh.size == 1 else None
    decayed = decay_mask(trainable)
    parameters = flat.abstract() if flat else trainable
    tx = optimizer(config.optim, stage.settings, steps, flat.fill(decayed) if flat else decayed)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parameters)
    opt_state = jax.eval_shape(tx.init, parameters)
    # Moments lie beside their parameters. This makes a scalar array, so it runs outside the mesh, which may be of other
    # devices than this process's.
    opt_shardings = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        opt_state,
        shardings,
        transform_non_params=lambda _: sharding.replicated_sharding(mesh),
    )
    opt_state = sharding.with_shardings(opt_state, opt_shardings)
    with jax.set_mesh(mesh):
        init = jax.jit(tx.init, out_shardings=opt_shardings)
        step = jax.jit(
            make_step(stage_graph, stage, tx, bounds, flat=flat),
            donate_argnums=(0, 1),
            out_shardings=(shardings, opt_shardings, sharding.replicated_sharding(mesh)),
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
    return TracedStep(trainable, frozen, flat, init, step, (parameters, opt_state, frozen, batch, key), mesh)


def log_programs(folder: Path, compiled: CompiledStage) -> None:
    """Log what was compiled for a stage, and append it to `folder`/compile.jsonl."""
    if not processes.is_first():
        return
    stage = compiled.stage.number
    with (folder / "compile.jsonl").open("a") as file:
        for program in compiled.programs:
            processes.log_on_first(f"compile  stage {stage} {program}")
            file.write(json.dumps({"stage": stage, **dataclasses.asdict(program)}) + "\n")


def model_flops(rows: BatchBuilder, stage: Stage) -> tuple[float, float]:
    """Return the model FLOPs of a mean step, and of a token that it reports, from the lengths of the Examples."""
    examples = rows.encoded
    lengths = np.array([len(example.ids) for example in examples])
    spans = np.array([example.response_span for example in examples])
    responses = np.minimum(spans[:, 1] - spans[:, 0], stage.data.response_tokens)
    audio, video = (
        sum(len({slot.key for slot in example.slots if slot.modality == modality}) for example in examples)
        for modality in ("audio", "video")
    )
    golds = np.array(rows.gold_sizes() or [(0, 0)])
    load = Load(
        tokens=float(lengths.sum()),
        context=float((lengths * (lengths + 1)).sum() / 2 / lengths.sum()),
        targets=float(sum(example.loss_mask.sum() for example in examples)),
        examples=float(len(examples)),
        slots=(audio, video),
        response=float(responses.mean()),
        phonemes=float(golds[:, 0].mean()),
        frames=float(golds[:, 1].mean()),
    )
    reported = float(responses.sum() if stage.cached else lengths.sum())
    epoch = training_step(rows.config, stage, rows.spec.widths, load)
    steps = rows.stream.rows_per_epoch / (rows.config.optim.accumulate * stage.data.rows)
    return epoch / steps, epoch / max(reported, 1.0)


def abstract_batch(
    spec: BatchSpec, mesh: jax.sharding.Mesh, accumulate: int | None = None
) -> Batch[jax.ShapeDtypeStruct]:
    """Return a micro-batch's abstract arrays, or those of `accumulate` of them [A, ...], with their shardings."""
    placement = sharding.batch_sharding(mesh, leading=0 if accumulate is None else 1)
    shapes = spec.abstract(accumulate)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), shapes)


class StageCompiler:
    """Compiles stages in their order: when asked for, or ahead, in other threads (`Config.compile_ahead`).

    Training keeps two cores busy, and so does a compiler: one stage is compiled ahead for every two cores.
    """

    def __init__(
        self,
        context: TrainingContext,
        stages: Sequence[Stage],
        graphdef: nnx.GraphDef,
        abstract: nnx.State,
        *,
        ahead: bool = False,
    ):
        """Queue the stages; nothing is compiled yet.

        Args:
          context: of the run.
          stages: in the order in which they are taken.
          graphdef: of the whole model.
          abstract: the whole model's state, as every stage begins and ends with it.
          ahead: compile later stages while one trains.
        """
        self._context, self._ahead = context, ahead
        self._graphdef, self._abstract = graphdef, abstract
        self._queue = list(stages)
        self._depth = max(1, usable_cores() // 2) if ahead else 1
        self._pool = concurrent.futures.ThreadPoolExecutor(self._depth, "compile")
        self._futures: collections.deque[concurrent.futures.Future] = collections.deque()

    def take(self) -> CompiledStage:
        """Return the next stage, compiled, and begin to compile those after it."""
        self._start()
        with self._context.clock("compile"):
            compiled = self._futures.popleft().result()
        log_programs(self._context.folder, compiled)
        if self._ahead:
            self._start()
        return compiled

    def _start(self) -> None:
        while self._queue and len(self._futures) < self._depth:
            stage = self._queue.pop(0)
            self._futures.append(self._pool.submit(compile_stage, self._context, stage, self._graphdef, self._abstract))

    def close(self) -> None:
        """Begin no other compilation; those under way go on, because they cannot be interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)
