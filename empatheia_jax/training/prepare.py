"""A stage made ready before its turn: its rows, its optimizer and its compiled functions, from shapes alone.

With `compile_ahead` later stages are made ready in other threads while one trains.
"""

import collections
import concurrent.futures
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

from empatheia_jax import processes, sharding
from empatheia_jax.compile_report import Program, compile_ahead_of_time
from empatheia_jax.config import Config
from empatheia_jax.data.packing import Bounds
from empatheia_jax.data.pipeline import steps_for
from empatheia_jax.data.rows import Rows
from empatheia_jax.flops import Load, training_step
from empatheia_jax.machine import usable_cores
from empatheia_jax.training.flat import Flat
from empatheia_jax.training.optim import decay_mask, optimizer
from empatheia_jax.training.stages import Stage
from empatheia_jax.training.state_cache import make_states
from empatheia_jax.training.step import make_evaluation, make_step, split, trains
from empatheia_jax.training.whiten import make_signals


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `run_stage` runs. `trainable` and `frozen` are abstract: shapes, dtypes and places."""

    stage: Stage
    rows: Rows
    validation: Rows | None  # None where there are no such Examples
    steps: int
    trainable: nnx.State
    frozen: nnx.State
    flat: Flat | None
    init: Callable  # trainable (one vector with `flat`) -> optimizer state
    step: Callable  # see `training.step.make_step`
    signals: Callable | None  # see `training.whiten.make_signals`
    states: Callable | None  # see `training.state_cache.make_states`
    flops: float  # model FLOPs of a mean step
    flops_per_token: float  # the same over the tokens that it reports
    programs: tuple[Program, ...]  # what was compiled for it

    def split(self, state: nnx.State) -> tuple[nnx.State, nnx.State]:
        """(trainable, frozen) of a state as it comes in, each where and as `step` wants it."""
        trainable, frozen = nnx.split_state(state, trains(self.stage.trains), ...)

        def fitted(leaf, like):
            return jax.device_put(leaf.astype(like.dtype), like.sharding)

        return jax.tree.map(fitted, trainable, self.trainable), jax.tree.map(fitted, frozen, self.frozen)


def prepare(run, stage: Stage, graphdef: nnx.GraphDef, abstract: nnx.State) -> Prepared:
    """Read the stage's rows and compile its functions; `abstract` is the whole model's state as it will come in.

    Also compiles the stage's evaluation into `run.evaluations`.

    Raises:
      RecordError: an Example that no row can hold.
    """
    config, mesh = run.config, run.mesh
    settings = config.stages[str(stage.number)]
    rows, validation = run.rows(stage), run.rows(stage, "validation") if run.data.validation else None
    steps = steps_for(rows, settings.epochs)
    batch = abstract_batch(rows.shapes(config.optim.accumulate), mesh)
    built = build_step(rows.config, stage, graphdef, abstract, batch, steps, rows.bounds, mesh)
    trainable, frozen = built.trainable, built.frozen
    with jax.set_mesh(mesh):
        flops, cost = model_flops(rows, stage)
        programs: list[Program] = []

        def ready(name: str, function, *arguments, flops: float | None = None):
            compiled, program = compile_ahead_of_time(name, function, *arguments, flops=flops)
            programs.append(program)
            return compiled

        step = ready("step", built.step, *built.arguments, flops=flops)
        here, single = sharding.batch_sharding(mesh), _single(batch, mesh)
        signals = None
        if stage.style and config.latents.whiten:
            everywhere = sharding.replicated(mesh)
            signals = ready("signals", jax.jit(make_signals(graphdef), out_shardings=everywhere), abstract, single)
        states = None
        if stage.cached:
            tokens = _single(abstract_batch(rows.computing().shapes(1), mesh), mesh)
            states = ready("states", jax.jit(make_states(graphdef), out_shardings=here), abstract, tokens)
        if validation and stage.kind not in run.evaluations:
            evaluation = jax.jit(make_evaluation(graphdef, stage, Bounds(rows.config.data.row_targets)))
            whole = nnx.merge_state(trainable, frozen)
            run.evaluations[stage.kind] = ready("evaluation", evaluation, whole, single)
    return Prepared(
        stage,
        rows,
        validation,
        steps,
        trainable,
        frozen,
        built.flat,
        built.init,
        step,
        signals,
        states,
        flops,
        cost,
        tuple(programs),
    )


@dataclasses.dataclass(frozen=True)
class Built:
    """A stage's step, traced for a mesh and not yet compiled. `trainable` and `frozen` are abstract."""

    trainable: nnx.State
    frozen: nnx.State
    flat: Flat | None
    init: Callable
    step: Callable  # jitted
    arguments: tuple  # abstract
    mesh: jax.sharding.Mesh

    def lowered(self) -> jax.stages.Lowered:
        """The step as it is given to the compiler."""
        with jax.set_mesh(self.mesh):
            return self.step.lower(*self.arguments)


def build_step(
    config: Config,
    stage: Stage,
    graphdef: nnx.GraphDef,
    abstract: nnx.State,
    batch: dict[str, jax.ShapeDtypeStruct],
    steps: int,
    bounds: Bounds,
    mesh: jax.sharding.Mesh,
) -> Built:
    """Trace a stage's training step, from shapes alone; the mesh's devices need not be there.

    Args:
      config: with the shapes of the stage. abstract: the whole model's state as it comes in, placed on `mesh`.
      batch: the arrays [A, ...] of a step, of all processes together.
      steps: of the whole stage, for the learning rate. bounds: of a row.
    """
    stage_graph, trainable, frozen = split(nnx.merge(graphdef, abstract), stage)
    flat = Flat(trainable) if mesh.size == 1 else None
    decayed = decay_mask(trainable)
    given = flat.abstract() if flat else trainable
    settings = config.stages[str(stage.number)]
    tx = optimizer(config.optim, settings, steps, flat.fill(decayed) if flat else decayed)
    places = jax.tree.map(lambda leaf: leaf.sharding, given)
    opt_state = jax.eval_shape(tx.init, given)
    # Moments beside their parameters. It makes a scalar, so not under the mesh, whose devices may be elsewhere.
    opt_places = optax.tree_map_params(
        tx,
        lambda _, place: place,
        opt_state,
        places,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    opt_state = sharding.placed(opt_state, opt_places)
    with jax.set_mesh(mesh):
        init = jax.jit(tx.init, out_shardings=opt_places)
        step = jax.jit(
            make_step(stage_graph, stage, tx, bounds, flat),
            donate_argnums=(0, 1),
            out_shardings=(places, opt_places, sharding.replicated(mesh)),
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
    return Built(trainable, frozen, flat, init, step, (given, opt_state, frozen, batch, key), mesh)


def after(stage: Stage, graphdef: nnx.GraphDef, abstract: nnx.State) -> nnx.State:
    """The whole model's abstract state as a stage leaves it: what it trains comes out as float32."""
    _, trainable, frozen = split(nnx.merge(graphdef, abstract), stage)
    return nnx.merge_state(trainable, frozen)


def report(folder: Path, prepared: Prepared) -> None:
    """Say what was compiled for a stage, and append it to `folder`/compile.jsonl."""
    if not processes.first():
        return
    stage = prepared.stage.number
    with (folder / "compile.jsonl").open("a") as file:
        for program in prepared.programs:
            processes.say(f"compile  stage {stage} {program}")
            file.write(json.dumps({"stage": stage, **dataclasses.asdict(program)}) + "\n")


def model_flops(rows: Rows, stage: Stage) -> tuple[float, float]:
    """Model FLOPs of a mean step and of a token that it reports, from the lengths of the split's Examples."""
    encoded, count = rows.encoded, len(rows.encoded)
    lengths = np.array([len(one.ids) for one in encoded])
    answers = np.array([min(one.response[1] - one.response[0], rows.config.data.response_tokens) for one in encoded])
    heard = sum(len({slot.key for slot in one.slots if slot.modality == "audio"}) for one in encoded)
    seen = sum(len({slot.key for slot in one.slots if slot.modality == "video"}) for one in encoded)
    golds = np.array(rows.gold_sizes() or [(0, 0)])
    load = Load(
        tokens=float(lengths.sum()),
        context=float((lengths * (lengths + 1)).sum() / 2 / lengths.sum()),
        targets=float(sum(one.loss.sum() for one in encoded)),
        examples=float(count),
        slots=(heard, seen),
        response=float(answers.mean()),
        phonemes=float(golds[:, 0].mean()),
        frames=float(golds[:, 1].mean()),
    )
    reported = float(answers.sum() if stage.cached else lengths.sum())
    epoch = training_step(rows.config, stage, rows.widths, load)
    steps = rows.stream.rows_per_epoch / (rows.config.optim.accumulate * rows.config.data.rows)
    return epoch / steps, epoch / max(reported, 1.0)


def abstract_batch(shapes: dict[str, tuple[tuple[int, ...], np.dtype]], mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays [A, ...] of a step where they lie, from their shapes and dtypes (`Rows.shapes`)."""
    where = sharding.batch_sharding(mesh, leading=1)
    return {name: jax.ShapeDtypeStruct(*one, sharding=where) for name, one in shapes.items()}


def _single(batch: dict[str, jax.ShapeDtypeStruct], mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of one of a step's micro-batches."""
    where = sharding.batch_sharding(mesh)
    return {n: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=where) for n, leaf in batch.items()}


class Ahead:
    """Makes stages ready in their order: when asked for, or before, in other threads (`Config.compile_ahead`).

    Training keeps two cores busy, and so does a compiler: one stage is made ready ahead for every two cores.
    """

    def __init__(self, run, stages: list[Stage], graphdef: nnx.GraphDef, abstract: nnx.State):
        self._run, self._graphdef = run, graphdef
        self._todo: list[tuple[Stage, nnx.State]] = []
        for stage in stages:
            self._todo.append((stage, abstract))
            abstract = after(stage, graphdef, abstract)
        # A compiler at work beside the steps would be in their profile.
        self._early = run.config.compile_ahead and run.profile.folder is None
        self._depth = max(1, usable_cores() // 2) if self._early else 1
        self._pool = concurrent.futures.ThreadPoolExecutor(self._depth, "prepare")
        self._ready: collections.deque[concurrent.futures.Future] = collections.deque()

    def take(self) -> Prepared:
        """The next stage, ready; begins with those after it."""
        self._start()
        with self._run.clock("compile"):
            prepared = self._ready.popleft().result()
        report(self._run.folder, prepared)
        if self._early:
            self._start()
        return prepared

    def _start(self) -> None:
        while self._todo and len(self._ready) < self._depth:
            stage, abstract = self._todo.pop(0)
            self._ready.append(self._pool.submit(prepare, self._run, stage, self._graphdef, abstract))

    def close(self) -> None:
        """Begin with nothing more. What is being compiled goes on: a compilation cannot be interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)
